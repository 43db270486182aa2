"""Servers that share a place: a stream moves between them whole, and nobody answers from what he has lost."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.tta_server.calls import INFER, UNGUARDED, body, glyph_images, infer, metric, noise, said, stream, until
from tta_server.app import build
from tta_server.runtime import tenure
from tta_server.runtime.tenure import HAND_OVER, Tenure
from tta_server.settings_file import load_settings
from tta_server.storage.owners import VERSIONS_PER_GENERATION, Owners
from tta_server.storage.store import Store

WINDOW = 16
ASK = Tenure._ask


@contextmanager
def sharing(store: Path, domains: int = 1) -> Iterator[tuple[TestClient, TestClient]]:
    """Start the servers `a` and `b` on one folder; each is asked to hand over what the other wants."""
    running: dict[str, TestClient] = {}

    def ask(tenure: Tenure, address: str, name: str) -> bool:
        headers = {"Authorization": f"Bearer {tenure._secret}"}
        assert running[address].post(HAND_OVER, json={"stream": name}, headers=headers).status_code == 204
        return True

    def started(name: str) -> TestClient:
        storage = {"url": str(store), "shared": True, "replica": name, "peers": "peers", "save_every_s": 3600}
        settings = load_settings(
            None,
            {
                "storage": storage,
                "engine": {"window_rows": WINDOW, "max_rows": WINDOW},
                "adapter": {"name": "tent", "settings": {"lr": 0.005}},
                "guard": UNGUARDED,
                "domains": {"max": domains},
            },
        )
        running[f"http://{name}.peers:8000"] = client = stack.enter_context(TestClient(build(settings).app))
        return client

    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(Tenure, "_ask", ask)
        yield started("a"), started("b")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def servers(store) -> Iterator[tuple[TestClient, TestClient]]:
    """Two servers for all tests, each of which has a stream of its own."""
    with sharing(store) as both:
        yield both


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


def test_a_stream_that_is_asked_for_elsewhere_moves_with_all_that_it_has_learnt(servers):
    first, second = servers
    teach(first, "whole", steps=2)
    data, version = answered(first, "whole")

    moved, later = answered(second, "whole")

    assert moved == data
    assert (version // VERSIONS_PER_GENERATION, later) == (1, 2 * VERSIONS_PER_GENERATION)
    assert stream(second, "whole")["steps"] == 2
    assert listed(first) == ("a", False)  # each speaks for itself alone
    assert listed(second) == ("b", True)
    entries = second.get("/v1/streams/whole/audit").json()["entries"]  # one log, whoever wrote it
    assert [entry["verdict"] for entry in entries] == ["load", "commit", "commit"]
    back, last = answered(first, "whole")
    assert (back, last) == (data, 3 * VERSIONS_PER_GENERATION)


def listed(client: TestClient) -> tuple[str, bool]:
    """Return who lists streams, and whether `whole` is among them."""
    answer = client.get("/v1/streams").json()
    return answer["replica"], "whole" in [each["name"] for each in answer["streams"]]


def test_who_has_lost_a_stream_neither_answers_from_it_nor_writes_it(servers, monkeypatch):
    first, second = servers
    monkeypatch.setattr(Tenure, "_ask", lambda *_: True)  # nobody is asked to hand over
    teach(first, "lost", steps=3)  # and writes its first round at most within an hour

    taken, version = answered(second, "lost")
    again, later = answered(first, "lost")

    assert taken == again
    assert later > version
    assert stream(first, "lost")["steps"] < 3  # nobody could ask for what was not written


def test_domains_move_with_their_stream(tmp_path):
    dark = (glyph_images(0, 4 * WINDOW) // 4).astype(np.uint8)
    with sharing(tmp_path, domains=4) as (first, second):
        for part in np.split(dark, 4):
            infer(first, "gate", part)
        until(lambda: stream(first, "gate")["domains"])
        until(lambda: any(each["steps"] for each in domains(first)))
        before = domains(first)

        infer(second, "gate", dark[:4])

        after = domains(second)
    assert [each["id"] for each in after] == [each["id"] for each in before]
    # A step may have been under way when they were read; none is lost.
    assert all(now["steps"] >= then["steps"] for now, then in zip(after, before, strict=True))
    assert all(each["state_version"] >= 2 * VERSIONS_PER_GENERATION for each in after if each["steps"])


def test_a_domain_may_be_offered_to_a_stream_that_another_server_has(tmp_path):
    dark = (glyph_images(0, 4 * WINDOW) // 4).astype(np.uint8)
    with sharing(tmp_path, domains=4) as (first, second):
        for part in np.split(dark, 4):
            infer(first, "gate", part)
        infer(second, "door", glyph_images(0, 4))
        until(lambda: any(each["steps"] for each in domains(first)))
        number = next(each["id"] for each in domains(first) if each["steps"]).partition("@")[2]

        offered = first.post(
            f"/v1/streams/gate/domains/{number}/offer", json={"to": ["door"], "reason": "the same fog"}
        )

    assert offered.status_code == 201, offered.text


def domains(client: TestClient) -> list[dict]:
    return client.get("/v1/streams/gate/domains").json()["domains"]


def test_a_stream_that_is_erased_is_erased_for_all_and_its_versions_go_on(servers):
    first, second = servers
    teach(first, "erased")
    learnt, version = answered(first, "erased")

    assert second.delete("/v1/streams/erased").status_code == 204

    assert second.get("/v1/streams/erased").status_code == 404
    data, later = answered(first, "erased")
    assert data != learnt
    assert later > version


def test_a_stream_that_cannot_be_read_is_taken_once_however_often_it_is_asked_for(servers, monkeypatch):
    first, second = servers
    infer(first, "shut", glyph_images(0, 1))
    load = Store.load

    def refuses(store: Store, name: str) -> bytes | None:
        if name == "shut":
            raise PermissionError(13, "Permission denied")
        return load(store, name)

    def asked() -> int:
        content, headers = body(glyph_images(0, 1)), {"X-Stream-Id": "shut"}
        return second.post(INFER, content=content, headers=headers).status_code

    with monkeypatch.context() as patch:
        patch.setattr(Store, "load", refuses)
        assert [asked() for _ in range(3)] == [503] * 3
        assert "ask again" in second.get("/v1/streams/shut").json()["error"]

    assert answered(second, "shut")[1] == 2 * VERSIONS_PER_GENERATION
    assert stream(second, "shut")["images"] == 1 + 4


def test_a_stream_that_can_never_be_read_is_erased_for_all(servers, monkeypatch):
    first, second = servers
    teach(first, "broken")
    learnt, _ = answered(first, "broken")

    def refuses(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "load", refuses)
        assert second.get("/v1/streams/broken").status_code == 503
        assert second.delete("/v1/streams/broken").status_code == 204

    assert second.get("/v1/streams/broken").status_code == 404
    assert answered(first, "broken")[0] != learnt


def test_of_the_mode_of_all_and_a_streams_own_the_later_holds_wherever_the_stream_has_been(servers):
    first, second = servers
    infer(first, "early", glyph_images(0, 1))
    infer(first, "own", glyph_images(0, 1))
    infer(second, "elsewhere", glyph_images(0, 1))
    first.patch("/v1/streams/early", json={"mode": "after"}).raise_for_status()
    first.patch("/v1/streams", json={"mode": "off", "reason": "a try"}).raise_for_status()
    first.patch("/v1/streams/own", json={"mode": "shadow"}).raise_for_status()
    try:
        for name in ("early", "own"):
            infer(second, name, glyph_images(0, 1))  # away
        for name in ("early", "own", "elsewhere"):
            infer(first, name, glyph_images(0, 1))  # and back

        modes = [stream(first, name)["mode"] for name in ("early", "own", "elsewhere")]
    finally:
        first.patch("/v1/streams", json={"mode": "configured", "reason": "over"}).raise_for_status()
    assert modes == ["off", "shadow", "off"]


def test_who_waits_for_a_server_that_does_not_answer_is_told_what_another_has_found_out(tmp_path, monkeypatch):
    silent, over, asked = threading.Event(), threading.Event(), []
    ends = iter((silent, over))

    class Opener:
        def open(self, request, timeout):
            asked.append(request)
            next(ends).wait(60)
            raise TimeoutError("timed out")

    with sharing(tmp_path) as (first, second), ThreadPoolExecutor() as callers:
        monkeypatch.setattr(Tenure, "_ask", ASK)
        monkeypatch.setattr(tenure, "straight_opener", Opener)
        for name in ("one", "two"):
            infer(first, name, glyph_images(0, 1))
        waiting = [callers.submit(infer, second, name, glyph_images(0, 1)) for name in ("one", "two")]
        until(lambda: len(asked) == 2)

        silent.set()

        for each in waiting:  # though the second is not answered itself
            assert each.result(60)
        assert not over.is_set()
        over.set()


def test_a_server_whose_storage_says_nothing_is_not_ready_until_it_has_answered(servers, monkeypatch):
    client, goes_on, owns = servers[0], threading.Event(), Owners.owns
    infer(client, "hanging", glyph_images(0, 1))
    monkeypatch.setattr("tta_server.storage.silence._LONG_S", 0.05)
    monkeypatch.setattr(Owners, "owns", lambda *about: goes_on.wait(60) and owns(*about))

    def ready() -> int:
        return client.get("/v2/health/ready").status_code

    with ThreadPoolExecutor() as callers:
        waiting = callers.submit(infer, client, "hanging", glyph_images(0, 1))
        until(lambda: ready() == 503)
        says = client.get("/v2/health/ready").json()["error"]
        shown = metric(client, 'tta_ready{model="glyphs"}')
        goes_on.set()

        assert waiting.result(60)
    assert says.startswith("the storage has not answered for")
    assert ready() == 200
    assert (shown, metric(client, 'tta_ready{model="glyphs"}')) == (0, 1)


def test_a_server_whose_storage_fails_is_not_ready_until_a_look_finds_it_well_though_nobody_asks(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("tta_server.storage.silence._LOOK_EVERY_S", 0.01)
    place, there, file = tmp_path / "place", tmp_path / "there", tmp_path / "file"
    there.mkdir()
    file.write_bytes(b"")
    place.symlink_to(there)
    with sharing(place) as (client, _):
        infer(client, "failing", glyph_images(0, 1))
        leads(place, file)  # as a mount that went away: every look raises an OSError

        until(lambda: client.get("/v2/health/ready").status_code == 503)
        says = client.get("/v2/health/ready").json()["error"]
        refused = client.post(INFER, content=body(glyph_images(0, 1)), headers={"X-Stream-Id": "failing"})
        listed = client.post("/v2/repository/index").json()[0]
        counted = metric(client, "tta_ready")
        leads(place, there)

        until(lambda: client.get("/v2/health/ready").status_code == 200)
        assert infer(client, "failing", glyph_images(0, 1))
        assert (counted, metric(client, "tta_ready")) == (0, 1)
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert says.startswith("the storage cannot be asked: [Errno 20]")
    assert (listed["state"], listed["reason"]) == ("UNAVAILABLE", says)
    assert f"{says}; requests about streams are refused" in caplog.text
    assert f"the storage answers again; before, {says}" in caplog.text


def leads(place: Path, to: Path) -> None:
    """Have a link lead elsewhere, at one moment."""
    other = place.with_name("other")
    other.symlink_to(to)
    other.replace(place)


def test_what_fails_about_one_stream_leaves_a_server_ready(tmp_path, monkeypatch):
    looks, look = [], Owners.look
    monkeypatch.setattr("tta_server.storage.silence._LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(Owners, "look", lambda owners: looks.append(look(owners)))
    damaged = tmp_path / "streams/damaged"
    damaged.mkdir(parents=True)
    (damaged / "owner-00000001").write_bytes(b"no record")
    with sharing(tmp_path) as (client, _):
        refused = client.post(INFER, content=body(glyph_images(0, 1)), headers={"X-Stream-Id": "damaged"})
        seen = len(looks)
        until(lambda: len(looks) > seen + 2)

        assert refused.status_code == 503
        assert "is damaged" in refused.json()["error"]
        assert client.get("/v2/health/ready").status_code == 200
        assert infer(client, "whole", glyph_images(0, 1))


def test_what_would_take_a_stream_from_the_server_that_has_it_is_refused(servers, store):
    client = servers[0]
    content = body(glyph_images(0, 1))

    asked = client.post(INFER, content=content.replace(b'{"inputs"', b'{"parameters":{"stream_id":"gate"},"inputs"'))

    assert asked.status_code == 400
    assert "send the header X-Stream-Id: gate" in asked.json()["error"]
    assert client.post(INFER, content=content).status_code == 200  # without a name it is `default` everywhere

    assert client.get("/v1/streams/nobody").status_code == 404
    assert not (store / "streams/nobody").exists()

    forged = client.post(HAND_OVER, json={"stream": "gate"}, headers={"Authorization": "Bearer guessed"})
    assert forged.status_code == 401
