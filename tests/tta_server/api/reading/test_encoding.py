"""The body of a request, put together."""

import asyncio
import mmap
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import State
from starlette.requests import ClientDisconnect, Request

from tests.tta_server.api.exchange import Exchange
from tta_server.api.protocol.infer import _parse_large
from tta_server.api.protocol.tensors import Expected
from tta_server.api.reading.encoding import body_of, buffer_of, let_go
from tta_server.errors import BadRequest

LARGE = 2**18 + 1


def asked(parts: list[bytes], headers: dict[str, str]) -> Request:
    exchange = Exchange(parts, headers)
    exchange.scope["state"] = State({"counted": lambda _size: None})
    return Request(exchange.scope, exchange.receive)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), min_size=1, max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_a_body_is_what_came_however_it_is_put_together(parts, is_declared, is_packed, is_large):
    parts = [*parts, b"x", bytes(LARGE)] if is_large else parts
    whole = b"".join(parts)
    sent = [zlib.compress(whole, 0)] if is_packed else parts  # which is larger than what is in it
    headers = {"content-length": str(sum(map(len, sent)))} if is_declared else {}
    headers |= {"content-encoding": "deflate"} if is_packed else {}

    ways = [asyncio.run(read(asked(sent, headers))) for read in (body_of, buffer_of)]

    assert [way[:] for way in ways] == [whole, whole]
    assert isinstance(ways[1], mmap.mmap) == (is_large and is_declared and not is_packed)


@pytest.mark.parametrize(("sizes", "said"), [([LARGE, 1], "more than the"), ([LARGE - 1], f"{LARGE - 1} bytes")])
def test_a_body_of_another_length_than_was_said_is_refused(sizes, said):
    request = asked([bytes(size) for size in sizes], {"content-length": str(LARGE)})

    with pytest.raises(BadRequest, match=said):
        asyncio.run(buffer_of(request))


def test_a_body_that_comes_at_once_is_not_copied():
    sent = bytes(LARGE)

    assert asyncio.run(buffer_of(asked([sent], {"content-length": str(LARGE)}))) is sent


def test_a_client_who_leaves_amid_a_large_body_is_gone():
    request = asked([], {"content-length": str(LARGE)})

    with pytest.raises(ClientDisconnect):
        asyncio.run(buffer_of(request))


def test_what_is_let_go_is_freed_unless_somebody_has_a_part_of_it():
    body = asyncio.run(buffer_of(asked([b"x", bytes(LARGE - 1)], {"content-length": str(LARGE)})))
    part = memoryview(body)[:1]

    let_go(body)
    assert not body.closed

    part.release()
    let_go(body)
    assert body.closed
    let_go(b"is left as it is")


@pytest.mark.parametrize("text", [b"[" * LARGE, b'{"inputs": [{"name": "input", "data": [' + b"0," * LARGE])
def test_a_large_body_that_is_refused_is_freed_where_it_was_read(text):
    body = asyncio.run(buffer_of(asked([text[:1], text[1:]], {"content-length": str(len(text))})))

    with pytest.raises(BadRequest):
        _parse_large(body, Expected((3, 32, 32), 64, ("scores",), "scores", 10), None)

    assert body.closed
