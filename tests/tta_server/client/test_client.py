"""The client asks again when it is told to."""

import asyncio
import pickle
import time
from email.utils import formatdate
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.client import (
    AsyncClient,
    Client,
    Prepared,
    ServerError,
    client,
    delete_stream,
    export_state,
    read_stream,
)

GOOD = httpx.Response(200, json={"ready": True})
FULL = httpx.Response(429, json={"error": "full", "code": "queue_full"}, headers={"Retry-After": "7"})
STARTING = httpx.Response(503, json={"error": "starting", "code": "not_ready"})
ASIDE = httpx.Response(500, json={"error": "aside", "code": "set_aside"})
MISSING = httpx.Response(404, json={"error": "unknown stream 'x'", "code": "not_found"})
PROXY = httpx.Response(502, text="<html>bad gateway</html>")
JSON = {"Content-Type": "application/json"}
NO_JSON = httpx.Response(200, content=b"<html>", headers=JSON)
LOGIN = httpx.Response(200, html="<html>log in</html>")
METRICS = Prepared("GET", "/metrics")


@pytest.fixture(params=["at once", "awaited"])
def outcome(request, monkeypatch):
    """Ask a server that answers as it is told to; returns the answer or the error, and the pauses."""

    def ask(*answers: httpx.Response | Exception, asked: Any = None) -> tuple[object, list[float]]:
        asked = asked or read_stream("x")
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
                return await server.ask(asked)

        try:
            if request.param == "awaited":
                return asyncio.run(awaited()), pauses
            with Client("http://x", tries=3) as server:
                return server.ask(asked), pauses
        except (ServerError, httpx.TransportError) as error:
            return error, pauses
        finally:
            monkeypatch.undo()

    return ask


def test_a_full_server_is_asked_again_when_it_says_so(outcome):
    assert outcome(FULL, GOOD) == ({"ready": True}, [7.0])
    assert outcome(STARTING, httpx.ConnectError("no"), GOOD) == ({"ready": True}, [0.2, 0.4])
    assert outcome(httpx.ConnectTimeout("no"), GOOD) == ({"ready": True}, [0.2])


@pytest.mark.parametrize(
    ("said", "pause_s"),
    [
        (b"0", 0.0),
        (b"1.5", 1.5),
        (b"9" * 30, 60.0),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (b"Thu Jan  1 00:00:00 2970", 60.0),
        *((odd, 0.2) for odd in (b"", b"\xb2", b"nan", b"inf", b"-1", b"1_0", b"soon")),
        (b"Fri, 31 Dec 99999999999999999999 23:59:59 GMT", 0.2),
    ],
)
def test_however_the_server_says_when_it_is_understood_or_passed_over(outcome, said, pause_s):
    full = httpx.Response(429, headers=[(b"Retry-After", said)])

    assert outcome(full, GOOD) == ({"ready": True}, [pause_s])


def test_a_date_is_waited_for(outcome):
    _, (pause_s,) = outcome(
        httpx.Response(503, headers={"Retry-After": formatdate(time.time() + 30, usegmt=True)}), GOOD
    )

    assert 25 < pause_s <= 30


@settings(max_examples=200)
@given(st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ \w+", fullmatch=True))
def test_no_wish_to_wait_is_an_error(said):
    told_s = client._told_s(said)

    assert told_s is None or told_s >= 0


def test_after_the_last_try_the_caller_hears_why(outcome):
    error, pauses = outcome(FULL, FULL, FULL)
    unreachable, _ = outcome(*[httpx.ConnectError("no")] * 3)

    assert (error.status, error.code, str(error), len(pauses)) == (429, "queue_full", "429: full", 2)
    assert isinstance(unreachable, httpx.ConnectError)


@pytest.mark.parametrize(("answer", "code"), [(ASIDE, "set_aside"), (MISSING, "not_found"), (PROXY, ""), (NO_JSON, "")])
def test_what_will_not_change_is_not_asked_again(outcome, answer, code):
    error, pauses = outcome(answer)

    assert (error.status, error.code, pauses) == (answer.status_code, code, [])


@pytest.mark.parametrize("answer", [httpx.Response(204), httpx.Response(204, headers=JSON)])
def test_silence_comes_as_none(outcome, answer):
    assert outcome(answer, asked=delete_stream("x")) == (None, [])


def test_a_file_comes_as_bytes(outcome):
    answer = httpx.Response(200, content=b"\x00a state", headers={"Content-Type": "application/octet-stream"})

    assert outcome(answer, asked=export_state("x")) == (b"\x00a state", [])


def test_a_request_of_ones_own_gets_whatever_comes(outcome):
    text = {"Content-Type": "text/plain; version=0.0.4"}

    assert outcome(httpx.Response(200, content=b"tta_ready 1", headers=text), asked=METRICS) == (b"tta_ready 1", [])
    assert outcome(httpx.Response(200, json={"a": 1}), asked=METRICS) == ({"a": 1}, [])
    assert outcome(httpx.Response(204), asked=METRICS) == (None, [])


def test_json_is_read_whatever_letters_its_type_is_written_in(outcome):
    answer = httpx.Response(200, content=b"{}", headers={"Content-Type": "Application/JSON"})

    assert outcome(answer) == ({}, [])


@pytest.mark.parametrize("asked", [read_stream("x"), export_state("x"), delete_stream("x")])
def test_what_answers_in_the_servers_place_is_no_answer(outcome, asked):
    error, pauses = outcome(LOGIN, asked=asked)

    assert isinstance(error, ServerError)
    assert (error.status, error.code, pauses) == (200, "", [])
    assert "'text/html' came" in str(error)


def test_no_answer_at_all_is_no_json(outcome):
    error, _ = outcome(httpx.Response(200))

    assert isinstance(error, ServerError)


def test_an_error_is_the_same_in_another_process():
    error = pickle.loads(pickle.dumps(ServerError(429, "queue_full", "429: full")))

    assert (error.status, error.code, str(error)) == (429, "queue_full", "429: full")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_key_as_its_file_has_it_is_sent_and_what_is_no_key_is_refused_without_being_told(kind):
    assert kind("http://x", key=" tta_abc\n")._http.headers["authorization"] == "Bearer tta_abc"
    assert "authorization" not in kind("http://x", key="\n")._http.headers
    for odd in ("tta_abc\nX-Actor: ann", "tta_\x00abc", "tta_äabc", "tta_abc tta_abc"):
        with pytest.raises(ValueError, match="character that no key has") as error:
            kind("http://x", key=odd)
        assert "abc" not in str(error.value)


def test_an_address_that_leads_elsewhere_says_where(outcome):
    error, _ = outcome(httpx.Response(307, headers={"Location": "https://tta.example/v1/streams/x"}))

    assert isinstance(error, ServerError)
    assert "307: this address leads to https://tta.example/v1/streams/x" in str(error)
