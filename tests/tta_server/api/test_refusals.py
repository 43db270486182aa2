"""How operators are told what was wrong."""

import threading

import httpx
import pytest

from tests.tta_server.api.operators import lines
from tests.tta_server.calls import names

BAD = {
    "unknown key": ("POST", "", {"name": "x", "mod": "off"}, 400, "unknown key 'mod'"),
    "no name": ("POST", "", {}, 400, "'name' is missing"),
    "bad name": ("POST", "", {"name": "a b"}, 400, "must be 1 to 64 letters"),
    "unknown adapter": ("POST", "", {"name": "x", "adapter": {"name": "nope"}}, 400, "unknown adapter 'nope'; use one"),
    "unknown setting": (
        "POST",
        "",
        {"name": "x", "adapter": {"name": "tent", "settings": {"rate": 1}}},
        400,
        "adapter 'tent' has no setting 'rate'; it has",
    ),
    "nothing to change": ("PATCH", "/door", {}, 400, "nothing to change; give 'mode', 'adapter' or both"),
    "bad mode": ("PATCH", "/door", {"mode": "on"}, 400, "mode: Input should be 'after'"),
    "wrong value": (
        "PATCH",
        "/door",
        {"adapter": {"name": "tent", "settings": {"lr": "fast"}}},
        400,
        "adapter 'tent': lr: expected a number, got",
    ),
    "switch without a reason": ("PATCH", "", {"mode": "off"}, 400, "'reason' is missing"),
    "rollback without a reason": ("POST", "/door/rollback", {"version": 1}, 400, "'reason' is missing"),
    "rollback for no reason": ("POST", "/door/rollback", {"version": 1, "reason": "  "}, 400, "say why"),
    "rollback to nowhere": (
        "POST",
        "/door/rollback",
        {"version": 9, "reason": "x"},
        404,
        "no version 9; it keeps none",
    ),
    "restore without a reason": ("POST", "/door/restore", {"snapshot": "x"}, 400, "'reason' is missing"),
    "restore of nothing": ("POST", "/door/restore", {"snapshot": "x", "reason": "y"}, 404, "no snapshot 'x'"),
    "long reason": ("POST", "/door/reset", {"reason": "x" * 501}, 400, "reason: String should have at most 500"),
    "a list": ("POST", "", [], 400, "the body must be a JSON object"),
    "unknown stream": ("PATCH", "/nobody", {"mode": "off"}, 404, "unknown stream 'nobody'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_command_is_told_what_is_wrong_and_changes_nothing(client, case):
    method, path, content, status, reason = BAD[case]
    client.post("/v1/streams", json={"name": "door"}).raise_for_status()
    before = client.get("/v1/streams").json(), lines(client)

    response = client.request(method, f"/v1/streams{path}", json=content)

    assert response.status_code == status, response.text
    assert reason in response.json()["error"]
    assert response.json()["code"]
    assert (client.get("/v1/streams").json(), lines(client)) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/reset"),
        ("POST", "/rollback"),
        ("POST", "/evict"),
        ("GET", "/state"),
        ("GET", "/snapshots"),
        ("POST", "/snapshots"),
        ("POST", "/restore"),
        ("GET", "/audit"),
    ],
)
def test_a_stream_that_is_not_there_is_not_found_and_not_made(client, method, path):
    bodies = {"PATCH": {"mode": "off"}, "/rollback": {"reason": "x"}, "/restore": {"snapshot": "x", "reason": "x"}}

    response = client.request(method, f"/v1/streams/nobody{path}", json=bodies.get(path or method))

    assert response.status_code == 404, response.text
    assert "unknown stream 'nobody'" in response.json()["error"]
    assert names(client) == []


def test_a_body_that_is_not_sent_as_json_is_told_so(client):
    response = client.post("/v1/streams", content=b'{"name":"door"}')

    assert response.status_code == 400
    assert "sent with Content-Type: application/json" in response.json()["error"]


def test_many_operators_at_once_open_a_stream_once(client, server):
    statuses: list[int] = []

    def open_stream() -> None:
        statuses.append(httpx.post(f"{server.url}/v1/streams", json={"name": "door"}, timeout=60).status_code)

    threads = [threading.Thread(target=open_stream) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [201, *[409] * 15]
