"""Text that is no text, half a character (a lone surrogate), is refused wherever it may come, and repeated nowhere."""

import struct
from pathlib import Path

import httpx
import pytest

from tests.server import Running, running
from tests.tta_server.api.operators import CONFIG
from tta_server.api.front.responses import error_response

HALF = b'{"x": "\\ud800", "y": "a\\n2026-11-28T16:00:00 ERROR tta_server.keys: FORGED"}'


def takers(client: httpx.Client) -> list[tuple[str, str]]:
    """Return the operations that take JSON."""
    paths = client.get("/openapi.json").raise_for_status().json()["paths"]
    return [
        (method.upper(), path.replace("{domain}", "1").replace("{name}", "door").replace("{version}", "1"))
        for path, operations in paths.items()
        for method, operation in operations.items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    ]


def test_half_a_character_is_refused_by_whatever_takes_json(tmp_path: Path):
    with running(tmp_path, CONFIG) as server:
        server.client.post("/v1/streams", json={"name": "door"}).raise_for_status()
        asked = takers(server.client)
        assert len(asked) > 10

        for method, path in asked:
            for body in (HALF, b'"\\udfff"', b"[" * 30_000, b"1" * 5000):
                answer = server.client.request(method, path, content=body, headers={"content-type": "application/json"})
                expected = {400: "bad_request", 404: "not_found", 413: "too_large"}
                assert answer.json()["code"] == expected.get(answer.status_code), (method, path, answer.text)

    said = (tmp_path / "server.log").read_text()
    assert "FORGED" not in said
    assert "Traceback" not in said


def test_a_state_that_says_half_a_character_of_itself_is_refused(server: Running):
    server.client.post("/v1/streams", json={"name": "door"}).raise_for_status()
    head = rb'{"__metadata__": {"tta_state": "{\"adapter\": \"\\ud800\", \"digest\": \"\\ud800\", \"schema\": 1}"}}'

    answer = server.client.put(
        "/v1/streams/door/state?reason=test",
        content=struct.pack("<Q", len(head)) + head,
        headers={"content-type": "application/octet-stream"},
    )

    server.client.delete("/v1/streams/door").raise_for_status()
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), answer.text


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "ä"])
def test_an_error_can_repeat_whatever_it_is_about(text: str):
    answer = error_response(400, text, "bad_request")

    assert bytes(answer.body).decode()


@pytest.mark.parametrize("path", ["/predict%0A", "/v2/models/glyphs/infer%0A", "/livez%0A", "/v1/streams%0a"])
def test_a_line_break_behind_a_path_makes_it_another(server: Running, path: str):
    answer = server.client.request("POST" if "i" in path[2:] else "GET", path, content=b"x")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
