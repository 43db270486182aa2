"""The client says what the server expects, and asks again when it is told to."""

import asyncio
import subprocess
import sys
from functools import partial

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tta_server import client
from tta_server.api.tensors import Expected, parse
from tta_server.client import AsyncClient, Client, ServerError, infer, predict, show

GOOD = httpx.Response(200, json={"ready": True})
FULL = httpx.Response(429, json={"error": "full", "code": "queue_full"}, headers={"Retry-After": "7"})
STARTING = httpx.Response(503, json={"error": "starting", "code": "not_ready"})
ASIDE = httpx.Response(500, json={"error": "aside", "code": "set_aside"})
MISSING = httpx.Response(404, json={"error": "unknown stream 'x'", "code": "not_found"})
PROXY = httpx.Response(502, text="<html>bad gateway</html>")


@pytest.fixture(params=["at once", "awaited"])
def outcome(request, monkeypatch):
    """Ask a server that answers as it is told to; returns the answer or the error, and the pauses."""

    def ask(*answers: httpx.Response | Exception) -> tuple[object, list[float]]:
        left, pauses = list(answers), []

        def answer(_request: httpx.Request) -> httpx.Response:
            found = left.pop(0)
            if isinstance(found, Exception):
                raise found
            return httpx.Response(found.status_code, headers=found.headers, content=found.content)

        async def pause(seconds: float) -> None:
            pauses.append(seconds)

        transport = httpx.MockTransport(answer)
        monkeypatch.setattr(client.httpx, "Client", partial(httpx.Client, transport=transport))
        monkeypatch.setattr(client.httpx, "AsyncClient", partial(httpx.AsyncClient, transport=transport))
        monkeypatch.setattr(client.time, "sleep", pauses.append)
        monkeypatch.setattr(client.asyncio, "sleep", pause)

        async def awaited() -> object:
            async with AsyncClient("http://x", tries=3) as server:
                return await server.ask(show("x"))

        try:
            if request.param == "awaited":
                return asyncio.run(awaited()), pauses
            with Client("http://x", tries=3) as server:
                return server.ask(show("x")), pauses
        except (ServerError, httpx.TransportError) as error:
            return error, pauses
        finally:
            monkeypatch.undo()

    return ask


def test_a_full_server_is_asked_again_when_it_says_so(outcome):
    assert outcome(FULL, GOOD) == ({"ready": True}, [7.0])
    assert outcome(STARTING, httpx.ConnectError("no"), GOOD) == ({"ready": True}, [0.2, 0.4])


def test_a_balancer_finds_who_has_the_stream_that_a_request_is_about():
    assert show("gate-7@2", "audit").headers == {"X-Stream-Id": "gate-7"}


def test_after_the_last_try_the_caller_hears_why(outcome):
    error, pauses = outcome(FULL, FULL, FULL)
    unreachable, _ = outcome(*[httpx.ConnectError("no")] * 3)

    assert (error.status, error.code, str(error), len(pauses)) == (429, "queue_full", "429: full", 2)
    assert isinstance(unreachable, httpx.ConnectError)


@pytest.mark.parametrize(("answer", "code"), [(ASIDE, "set_aside"), (MISSING, "not_found"), (PROXY, "")])
def test_what_will_not_change_is_not_asked_again(outcome, answer, code):
    error, pauses = outcome(answer)

    assert (error.status, error.code, pauses) == (answer.status_code, code, [])


@settings(max_examples=20, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(1), st.just(2), st.just(2)))
    | arrays(np.float64, st.tuples(st.integers(1, 3), st.just(1), st.just(2), st.just(2)), elements=st.floats(0, 1))
)
def test_the_server_reads_the_array_that_was_sent(images):
    asked = infer("tiny", images, "gate-7", "frame-1")

    found = parse(asked.content, Expected((1, 2, 2), 3, ("a",), "a", 4), asked.headers[client._HEADER]).images.read()

    assert np.array_equal(found, images if images.dtype == np.uint8 else images.astype(np.float32))
    assert (asked.headers["X-Stream-Id"], asked.headers["X-Request-Id"]) == ("gate-7", "frame-1")


def test_files_are_given_by_path_or_content(tmp_path):
    (tmp_path / "a.png").write_bytes(b"one")

    asked = predict([tmp_path / "a.png", str(tmp_path / "a.png"), b"two"], top_k=2)

    assert asked.files == [("image", ("a.png", b"one"))] * 2 + [("image", ("image-3", b"two"))]
    assert (asked.params, asked.headers) == ({"top_k": 2}, {})
    assert predict(b"one").files == [("image", ("image-1", b"one"))]


def test_the_client_is_imported_without_torch():
    lines = "import sys, tta_server.client; print([n for n in ('torch', 'fastapi', 'pydantic') if n in sys.modules])"

    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)

    assert orjson.loads(done.stdout) == []
