"""The client asks again when it is told to."""

import asyncio
from functools import partial

import httpx
import pytest

from tta_server.client import AsyncClient, Client, ServerError, client, read_stream

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
                return await server.ask(read_stream("x"))

        try:
            if request.param == "awaited":
                return asyncio.run(awaited()), pauses
            with Client("http://x", tries=3) as server:
                return server.ask(read_stream("x")), pauses
        except (ServerError, httpx.TransportError) as error:
            return error, pauses
        finally:
            monkeypatch.undo()

    return ask


def test_a_full_server_is_asked_again_when_it_says_so(outcome):
    assert outcome(FULL, GOOD) == ({"ready": True}, [7.0])
    assert outcome(STARTING, httpx.ConnectError("no"), GOOD) == ({"ready": True}, [0.2, 0.4])


def test_after_the_last_try_the_caller_hears_why(outcome):
    error, pauses = outcome(FULL, FULL, FULL)
    unreachable, _ = outcome(*[httpx.ConnectError("no")] * 3)

    assert (error.status, error.code, str(error), len(pauses)) == (429, "queue_full", "429: full", 2)
    assert isinstance(unreachable, httpx.ConnectError)


@pytest.mark.parametrize(("answer", "code"), [(ASIDE, "set_aside"), (MISSING, "not_found"), (PROXY, "")])
def test_what_will_not_change_is_not_asked_again(outcome, answer, code):
    error, pauses = outcome(answer)

    assert (error.status, error.code, pauses) == (answer.status_code, code, [])


@pytest.mark.parametrize("answer", [httpx.Response(204), httpx.Response(200, content=b"\x00a state")])
def test_a_file_comes_as_bytes_and_silence_as_none(outcome, answer):
    assert outcome(answer) == (answer.content or None, [])
