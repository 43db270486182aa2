"""Servers that share a place: a stream moves between them whole, and nobody answers from what he has lost."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.tta_server.calls import INFER, UNGUARDED, body, glyph_images, infer, noise, said, stream, until
from tta_server.app import build
from tta_server.runtime.tenure import HAND_OVER, Tenure
from tta_server.settings_file import load_settings
from tta_server.streams.stock import VERSIONS_PER_GENERATION

WINDOW = 16


@pytest.fixture
def start(tmp_path, monkeypatch) -> Iterator[Callable[..., TestClient]]:
    """Start servers on one folder by name; with `peers` they hand streams over."""
    running: dict[str, TestClient] = {}

    def ask(tenure: Tenure, address: str, name: str) -> None:
        headers = {"Authorization": f"Bearer {tenure._secret}"}
        assert running[address].post(HAND_OVER, json={"stream": name}, headers=headers).status_code == 204

    def started(name: str, peers: str = "", domains: int = 1) -> TestClient:
        settings = load_settings(
            None,
            {
                "storage": {
                    "url": str(tmp_path / "store"),
                    "shared": True,
                    "replica": name,
                    "peers": peers,
                    "save_every_s": 3600,
                },
                "engine": {"window_rows": WINDOW},
                "adapter": {"name": "tent", "settings": {"lr": 0.005}},
                "guard": UNGUARDED,
                "domains": {"max": domains},
            },
        )
        client = TestClient(build(settings).app)
        running[f"http://{name}.{peers}:8000"] = stack.enter_context(client)
        return client

    monkeypatch.setattr(Tenure, "_ask", ask)
    with ExitStack() as stack:
        yield started


def teach(client: TestClient, name: str, steps: int = 1) -> None:
    """Have a stream learn from some windows."""
    for number in range(steps):
        before = stream(client, name).get("steps", 0)
        infer(client, name, noise(WINDOW, seed=number))
        until(lambda before=before: stream(client, name)["steps"] > before)


def answered(client: TestClient, name: str) -> tuple[Any, int]:
    """Return the probabilities that a stream gives some images, and its version."""
    data, about = said(infer(client, name, glyph_images(0, 4)))
    return data, about["state_version"]


def test_a_stream_that_is_asked_for_elsewhere_moves_with_all_that_it_has_learnt(start):
    first, second = start("a", "peers"), start("b", "peers")
    teach(first, "gate", steps=2)
    data, version = answered(first, "gate")

    moved, later = answered(second, "gate")

    assert moved == data
    assert (version // VERSIONS_PER_GENERATION, later) == (1, 2 * VERSIONS_PER_GENERATION)
    assert stream(second, "gate")["steps"] == 2
    assert first.get("/v1/streams").json()["streams"] == []
    entries = second.get("/v1/streams/gate/audit").json()["entries"]  # one log, whoever wrote it
    assert [entry["verdict"] for entry in entries] == ["load", "commit", "commit"]
    back, last = answered(first, "gate")
    assert (back, last) == (data, 3 * VERSIONS_PER_GENERATION)


def test_who_has_lost_a_stream_neither_answers_from_it_nor_writes_it(start):
    first, second = start("a"), start("b")
    teach(first, "gate", steps=3)  # and writes its first round at most within an hour

    taken, version = answered(second, "gate")
    again, later = answered(first, "gate")

    assert taken == again
    assert later > version
    assert stream(first, "gate")["steps"] < 3  # nobody could ask for what was not written


def test_domains_move_with_their_stream(start):
    first, second = start("a", "peers", domains=4), start("b", "peers", domains=4)
    dark = (glyph_images(0, 4 * WINDOW) // 4).astype(np.uint8)
    for part in np.split(dark, 4):
        infer(first, "gate", part)
    until(lambda: stream(first, "gate")["domains"])
    until(lambda: any(each["steps"] for each in domains(first)))
    before = domains(first)

    infer(second, "gate", dark[:4])

    after = domains(second)
    assert [(each["id"], each["steps"]) for each in after] == [(each["id"], each["steps"]) for each in before]
    assert all(each["state_version"] >= 2 * VERSIONS_PER_GENERATION for each in after if each["steps"])


def domains(client: TestClient) -> list[dict]:
    return client.get("/v1/streams/gate/domains").json()["domains"]


def test_a_stream_that_is_erased_is_erased_for_all_and_its_versions_go_on(start):
    first, second = start("a", "peers"), start("b", "peers")
    teach(first, "gate")
    learnt, version = answered(first, "gate")

    assert second.delete("/v1/streams/gate").status_code == 204

    assert second.get("/v1/streams/gate").status_code == 404
    data, later = answered(first, "gate")
    assert data != learnt
    assert later > version


def test_what_would_take_a_stream_from_the_server_that_has_it_is_refused(start, tmp_path):
    client = start("a")
    content = body(glyph_images(0, 1))

    asked = client.post(INFER, content=content.replace(b'{"inputs"', b'{"parameters":{"stream_id":"gate"},"inputs"'))

    assert asked.status_code == 400
    assert "send the header X-Stream-Id: gate" in asked.json()["error"]
    assert client.post(INFER, content=content).status_code == 200  # without a name it is `default` everywhere

    assert client.get("/v1/streams/nobody").status_code == 404
    assert not (tmp_path / "store/streams/nobody").exists()

    forged = client.post(HAND_OVER, json={"stream": "gate"}, headers={"Authorization": "Bearer guessed"})
    assert forged.status_code == 401
