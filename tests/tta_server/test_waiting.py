"""While the device is busy: callers who hang up, probes, and what is said to those who come too late."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest

from tests.server import Running, running
from tests.tta_server.calls import PATIENCE_S, UNGUARDED, balance, body, calling, metric, pages, stream, until
from tests.tta_server.gated import SHAPE

WINDOW, MOST = 4, 12
INFER = "/v2/models/gated/infer"


class Gate(NamedTuple):
    """A server whose device waits while the gate is shut."""

    server: Running
    folder: Path

    def shut(self) -> None:
        (self.folder / "entered").unlink(missing_ok=True)
        (self.folder / "shut").touch()

    def open(self) -> None:
        (self.folder / "shut").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> Iterator[Gate]:
    folder = tmp_path_factory.mktemp("gated")
    config = {
        "model": {
            "architecture": "tests.tta_server.gated:network",
            "name": "gated",
            "device": "cpu",
            "labels": ["a", "b", "c", "d"],
            "preprocess": {"size": list(SHAPE[1:])},
        },
        "adapter": {"name": "tent", "settings": {"lr": 0.05}},
        "engine": {"max_rows": WINDOW, "max_queue_rows": MOST, "window_rows": WINDOW},
        "guard": UNGUARDED,
    }
    with running(folder, config, {"GATE": str(folder)}) as server:
        yield Gate(server, folder)


@pytest.fixture
def gate(started: Gate) -> Iterator[Gate]:
    yield started
    started.open()
    client = started.server.client
    until(lambda: metric(client, "tta_queue_depth_images{") == 0)
    until(lambda: all(each["images_in_window"] < WINDOW for each in pages(client)))  # else the next gate stops a step


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


def posted(url: str, stream_name: str, content: bytes, request_id: str) -> socket.socket:
    """Send a whole request and return the connection, without waiting for the answer."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), PATIENCE_S)
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nX-Stream-Id: {stream_name}\r\nX-Request-Id: {request_id}\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def ask(url: str, name: str, content: bytes, answers: list[httpx.Response]) -> threading.Thread:
    """Ask in a thread of its own."""

    def post() -> None:
        with calling(url) as client:
            answers.append(client.post(INFER, content=content, headers={"X-Stream-Id": name}))

    thread = threading.Thread(target=post)
    thread.start()
    return thread


def outcomes(client: httpx.Client) -> dict[str, float]:
    names = ("ok", "cancelled", "overloaded", "error", "rejected")
    return {name: metric(client, f'tta_requests_total{{model="gated",outcome="{name}"}}') for name in names}


def test_a_request_whose_caller_hangs_up_in_the_queue_is_neither_answered_nor_learnt_from(gate):
    client, url = gate.server.client, gate.server.url
    answers: list[httpx.Response] = []
    before = outcomes(client)
    gate.shut()
    first = ask(url, "door", body(images(WINDOW, 1)), answers)
    until(lambda: (gate.folder / "entered").exists())
    leaving = [posted(url, "door", body(images(1, 10 + place)), f"left-{place}") for place in range(5)]
    until(lambda: metric(client, "tta_queue_depth_images{") == 5)
    last = ask(url, "door", body(images(3, 2)), answers)
    until(lambda: metric(client, "tta_queue_depth_images{") == 8)

    for connection in leaving:
        connection.close()
    until(lambda: outcomes(client)["cancelled"] - before["cancelled"] == 5)
    gate.open()
    first.join()
    last.join()

    assert [answer.status_code for answer in answers] == [200, 200]
    assert outcomes(client) == before | {"ok": before["ok"] + 2, "cancelled": before["cancelled"] + 5}
    about = stream(client, "door")
    assert about["images"] == WINDOW + 3
    until(lambda: stream(client, "door")["images_in_window"] < WINDOW)
    offered, accounted = balance(client, "door")
    assert offered == accounted == WINDOW + 3
    told = client.post("/v1/labels", json={"labels": [{"id": f"left-{place}", "label": 0} for place in range(5)]})
    assert told.json()["unknown"] == 5


def test_a_request_whose_caller_hangs_up_too_late_is_answered_and_accounted_for(gate):
    client, url = gate.server.client, gate.server.url
    before = outcomes(client)
    gate.shut()
    leaving = posted(url, "late", body(images(2, 3)), "late-1")
    until(lambda: (gate.folder / "entered").exists())

    leaving.close()
    gate.open()
    until(lambda: outcomes(client)["ok"] == before["ok"] + 1)

    assert outcomes(client)["cancelled"] == before["cancelled"]
    assert balance(client, "late") == (2, 2)
    assert client.post("/v1/labels", json={"labels": [{"id": "late-1", "label": 0}]}).json()["counted"] == 1


def test_callers_who_all_hang_up_leave_room_for_others(gate):
    client, url = gate.server.client, gate.server.url
    answers: list[httpx.Response] = []
    cancelled = outcomes(client)["cancelled"]
    gate.shut()
    first = ask(url, "door", body(images(1, 4)), answers)
    until(lambda: (gate.folder / "entered").exists())
    leaving = [posted(url, "door", body(images(1, 20 + place)), f"room-{place}") for place in range(MOST)]
    until(lambda: metric(client, "tta_queue_depth_images{") == MOST)
    refused = client.post(INFER, content=body(images(1, 5)))

    for connection in leaving:
        connection.close()
    until(lambda: outcomes(client)["cancelled"] == cancelled + MOST)
    gate.open()
    first.join()

    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert client.post(INFER, content=body(images(1, 6))).status_code == 200


def test_probes_and_metrics_are_answered_while_the_device_is_busy_and_the_queue_is_full(gate):
    client, url = gate.server.client, gate.server.url
    answers: list[httpx.Response] = []
    gate.shut()
    threads = [ask(url, "door", body(images(1, 7)), answers)]
    until(lambda: (gate.folder / "entered").exists())
    threads += [ask(url, "door", body(images(1, 30 + place)), answers) for place in range(MOST)]
    until(lambda: metric(client, "tta_queue_depth_images{") == MOST)

    paths = ["/v2/health/live", "/v2/health/ready", "/livez", "/readyz", "/v2/models/gated/ready", "/v2/models/gated"]
    statuses = [client.get(path).status_code for path in paths]
    late = client.post(INFER, content=body(images(1, 8)))
    still_shut = not answers
    gate.open()
    for thread in threads:
        thread.join()

    assert statuses == [200] * len(paths)
    assert still_shut
    assert late.status_code == 429
    assert [answer.status_code for answer in answers] == [200] * (MOST + 1)


def test_a_full_queue_refuses_files_before_they_are_decoded(gate):
    client, url = gate.server.client, gate.server.url
    answers: list[httpx.Response] = []
    gate.shut()
    threads = [ask(url, "door", body(images(1, 9)), answers)]
    until(lambda: (gate.folder / "entered").exists())
    threads += [ask(url, "door", body(images(1, 50 + place)), answers) for place in range(MOST)]
    until(lambda: metric(client, "tta_queue_depth_images{") == MOST)
    decoded = metric(client, 'tta_stage_duration_seconds_count{model="gated",stage="decode"}')

    response = client.post("/predict", content=b"no image, but nobody looks")
    gate.open()
    for thread in threads:
        thread.join()

    assert response.status_code == 429
    assert metric(client, 'tta_stage_duration_seconds_count{model="gated",stage="decode"}') == decoded
