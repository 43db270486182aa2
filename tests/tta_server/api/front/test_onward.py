"""What is read of a connection: each request's own head and body, whatever else a client asks for."""

import asyncio
import json
from itertools import pairwise

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from tta_server.api.front.connection import connection_class
from tta_server.settings_door import LimitsSettings

PATIENCE_S = 30
BODY = b"GET /stolen HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
WISHES = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"connection: keep-alive, Upgrade\r\nupgrade: anything\r\n",
]
FRAMED = {
    "length": b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY),
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n"
    % (BODY[:5], len(BODY) - 5, BODY[5:]),
    "nothing": b"Content-Length: 0\r\n\r\n",
    "no body": b"\r\n",
}


async def app(scope, receive, send):
    """Say what was read of a request."""
    if scope["type"] != "http":
        return
    body = b""
    while (event := await receive())["type"] == "http.request":
        body += event["body"]
        if not event["more_body"]:
            headers = sorted(name.decode() for name, _ in scope["headers"])
            said = {"path": scope["path"], "body": body.decode("latin-1"), "headers": headers}
            content = json.dumps(said).encode() + b"\n"
            length = [(b"content-length", b"%d" % len(content))]
            await send({"type": "http.response.start", "status": 200, "headers": length})
            await send({"type": "http.response.body", "body": content})
            return


def answers(pieces: list[bytes]) -> bytes:
    """Return everything that is answered to what is sent in these pieces, one after another."""

    async def ask() -> bytes:
        protocol = connection_class(LimitsSettings(), lambda _reason: None)
        config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None)
        config.load()
        made = asyncio.get_running_loop().create_server(lambda: protocol(config, ServerState(), {}), "127.0.0.1", 0)
        async with await made as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            try:
                return await asyncio.wait_for(reader.read(), PATIENCE_S)
            finally:
                writer.close()

    return asyncio.run(ask())


def said(answered: bytes) -> list[dict]:
    return [json.loads(line) for line in answered.split(b"\n") if line.startswith(b"{")]


def cut(sent: bytes, places: list[int]) -> list[bytes]:
    return [
        sent[start:stop] for start, stop in pairwise([0, *sorted({place % len(sent) for place in places}), len(sent)])
    ]


requests = st.lists(st.tuples(st.sampled_from([b"", *WISHES]), st.sampled_from(sorted(FRAMED))), min_size=1, max_size=4)


@settings(max_examples=40)
@given(wanted=requests, places=st.lists(st.integers(0, 2000), max_size=6))
def test_a_wish_for_another_protocol_changes_nothing_of_what_is_read(wanted, places):
    sent = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: x\r\n%s%s" % (number, wish, FRAMED[framed])
        for number, (wish, framed) in enumerate(wanted)
    )

    *found, last = said(answers(cut(sent + LAST, places)))

    bodies = [BODY.decode() if framed in ("length", "chunks") else "" for _, framed in wanted]
    assert [(one["path"], one["body"]) for one in found] == [(f"/{i}", body) for i, body in enumerate(bodies)]
    assert last["path"] == "/last"


def test_what_follows_connect_is_nobodys_request():
    (found,) = said(answers([b"CONNECT http://x/a HTTP/1.1\r\nHost: x\r\n\r\n" + BODY]))

    assert found["path"] == "/a"


def test_a_head_that_is_refused_is_refused_whatever_it_wishes():
    many = b"".join(b"a: b\r\n" for _ in range(LimitsSettings().max_headers))

    found = answers([b"GET / HTTP/1.1\r\nHost: x\r\n" + WISHES[0] + many + b"\r\n"])

    assert found.startswith(b"HTTP/1.1 431 ")


def test_of_too_many_requests_those_that_wait_are_answered_whatever_the_next_one_wishes():
    ask = b"GET /a HTTP/1.1\r\nHost: x\r\n"

    found = said(answers([(ask + b"\r\n") * 65 + (ask + WISHES[0] + b"\r\n") * 3]))

    assert len(found) == 65


@pytest.mark.parametrize(
    "bad",
    [
        b"\x00\x00\x00\r\n\r\n",
        b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /b HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * (LimitsSettings().max_headers + 1) + b"\r\n",
        b"GET /b HTTP/1.1\r\nHost: x\r\na: " + b"b" * 2**19,  # more than is read at once
    ],
    ids=["no HTTP", "no body", "many headers", "an endless header"],
)
@pytest.mark.parametrize("waiting", [1, 3])
def test_what_is_refused_costs_no_answer_to_what_came_before_it(waiting: int, bad: bytes):
    ask = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"

    found = [one for one in said(answers([ask * waiting + bad])) if "code" not in one]  # a refusal may come behind

    assert [(one["path"], one["body"]) for one in found] == [("/a", "a")] * waiting


@pytest.mark.parametrize("apart", [False, True])
def test_what_comes_behind_a_body_is_no_header_of_the_request(apart: bool):
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    rest = b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\nX-Actor: somebody\r\n\r\n"

    found, _ = said(answers([head, rest, LAST] if apart else [head + rest + LAST]))

    assert (found["body"], found["headers"]) == ("a", ["host", "transfer-encoding"])


@pytest.mark.parametrize(
    "framed",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nContent-Length: abc\r\n\r\n",
        b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: gzip\r\n\r\nabc",
    ],
)
def test_a_body_that_is_none_is_answered_once(framed: bytes):
    found = answers([b"POST /a HTTP/1.1\r\nHost: x\r\n" + framed])

    assert found.count(b"HTTP/1.1 ") == found.count(b"HTTP/1.1 400 Bad Request") == 1
    assert json.loads(found.rpartition(b"\r\n\r\n")[2])["code"] == "bad_request"
