"""The body of a request as a whole, and bodies that were made smaller on their way, in and out: gzip and deflate."""

import asyncio
import mmap
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from tta_server.api.reading.search import Buffer
from tta_server.errors import BadRequest, Unsupported

T = TypeVar("T")
B = TypeVar("B", bytes, Buffer)

_WINDOW_BITS: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_KNOWN: Final = "gzip and deflate"
_PIECE_BYTES = 2**18  # what is opened before others have their turn: less than a millisecond
_ASIDE: Final = ThreadPoolExecutor(1, thread_name_prefix="body")
_WORTH_BYTES = 1024  # smaller answers leave as they are
_AT_ONCE_BYTES = 2**16
_FAST = 1


async def body_of(request: Request) -> bytes:
    """Return the body of a request, opened if it came compressed; what comes out counts as received.

    Raises:
        BadRequest: If it is not what its `Content-Encoding` says.
        TooLarge: If what comes out is more than the server takes.
        Overloaded: If all bodies together are.
        Unsupported: If it is compressed in another way.
    """
    parts = list[bytes]()
    await _receive(request, parts.append)
    return await _plain(request, await _joined(parts))


async def buffer_of(request: Request) -> Buffer:
    """Return what `body_of` does; a large body whose length is known beforehand is put together while it comes.

    At its end that would take 10 ms for 32 MiB, in which others wait for their answers, and as much memory again.

    Raises:
        BadRequest: As `body_of`, and if more or less comes than its `Content-Length` says.
        TooLarge: As `body_of`.
        Overloaded: As `body_of`.
        Unsupported: As `body_of`.
    """
    declared = int(request.headers.get("content-length", "0"))
    if declared <= _PIECE_BYTES:
        return await body_of(request)
    body: Buffer = b""
    size = 0

    def put(part: bytes) -> None:
        nonlocal body, size
        size += len(part)
        if size > declared:
            raise BadRequest(f"the body has more than the {declared} bytes that its Content-Length says")
        if len(part) == declared:
            body = part  # all at once: from within the process
            return
        if isinstance(body, bytes):
            body = mmap.mmap(-1, declared, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # takes memory as it is filled
        body.write(part)

    await _receive(request, put)
    if size < declared:
        raise BadRequest(f"the body has {size} bytes, but its Content-Length says {declared}")
    return await _plain(request, body)


def let_go(body: Buffer) -> None:
    """Free a body that nobody will look at any more; no other thread has to wait for that."""
    if isinstance(body, mmap.mmap):
        with suppress(BufferError):  # somebody has a part of it
            body.close()


async def _plain(request: Request, body: B) -> B | bytes:
    """Return a body, opened if it came compressed."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _WINDOW_BITS:
        raise Unsupported(f"the body has Content-Encoding '{encoding[:80]}'; this server reads {_KNOWN}")
    return await _opened(request, body, encoding)


async def _receive(request: Request, take: Callable[[bytes], object]) -> None:
    """Take what comes of a body; Starlette's `stream` is two layers more."""
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        take(message.get("body", b""))
        more = message.get("more_body", False)


async def _opened(request: Request, body: Buffer, encoding: str) -> bytes:
    opener, parts = zlib.decompressobj(_WINDOW_BITS[encoding]), list[bytes]()
    try:
        for start in range(0, len(body), _PIECE_BYTES):
            rest = body[start : start + _PIECE_BYTES]
            while rest and not opener.unused_data:
                part = await _next_part(opener, rest, at_once=not parts)
                request.state.counted(len(part))
                parts.append(part)
                rest = opener.unconsumed_tail
    except zlib.error as error:
        raise BadRequest(f"the body is not {encoding}, as its Content-Encoding says ({error})") from error
    if not opener.eof or opener.unused_data:
        raise BadRequest(f"the body is not one whole {encoding} stream, as its Content-Encoding says")
    return await _joined(parts)


async def _next_part(opener: "zlib._Decompress", rest: bytes, at_once: bool) -> bytes:
    """Open a piece; the first is mostly all that there is, and not worth another thread."""
    if at_once:
        return opener.decompress(rest, _PIECE_BYTES)
    return await aside(opener.decompress, rest, _PIECE_BYTES)


async def _joined(parts: list[bytes]) -> bytes:
    """Put a body together; a large one aside, for it takes 10 ms for 32 MiB."""
    return b"".join(parts) if sum(map(len, parts)) <= _PIECE_BYTES else await aside(_join, parts)


def _join(parts: list[bytes]) -> bytes:
    body = b"".join(parts)
    while parts:  # to free them all at once takes milliseconds, in which no other thread has a turn
        parts.pop()
    return body


async def aside(work: Callable[..., T], *given: object) -> T:
    """Have a large body worked on by a thread: one for all bodies, which leaves CPUs and memory for answers."""
    return await asyncio.get_running_loop().run_in_executor(_ASIDE, work, *given)


async def compressed(request: Request, response: Response) -> Response:
    """Return an answer as its caller wants it: compressed, if he takes that and it is worth it."""
    encoding = _wanted(request.headers.get("accept-encoding", ""))
    body = bytes(response.body)
    if not encoding or len(body) < _WORTH_BYTES:
        return response
    small = len(body) <= _AT_ONCE_BYTES
    response.body = _packed(body, encoding) if small else await asyncio.to_thread(_packed, body, encoding)
    response.headers["content-length"] = str(len(response.body))
    response.headers["content-encoding"] = encoding
    response.headers["vary"] = "Accept-Encoding"
    return response


def _packed(body: bytes, encoding: str) -> bytes:
    packer = zlib.compressobj(_FAST, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return packer.compress(body) + packer.flush()


def _wanted(accepted: str) -> str:
    """Return the first encoding of a list that this server writes and that is not refused by a weight of 0."""
    for each in accepted.lower().split(","):
        name, _, weight = each.replace(" ", "").partition(";q=")
        if name in ("gzip", "deflate") and not (weight and weight.strip("0.") == ""):
            return name
    return ""
