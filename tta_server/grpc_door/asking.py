"""Ask the application what an HTTP request would: keys, limits, names, counts and errors are then the same."""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson

from tta_server.addresses import host_of

AsgiMessage = MutableMapping[str, Any]
App = Callable[
    [AsgiMessage, Callable[[], Awaitable[AsgiMessage]], Callable[[AsgiMessage], Awaitable[None]]], Awaitable[None]
]

_OWN = re.compile(r"(content|accept|transfer|inference|grpc)-.*|connection|host|te|:.*")
_working: set["asyncio.Task[Reply]"] = set()


class Asked(NamedTuple):
    """A request to the application.

    Attributes:
        method: Of HTTP.
        path: Of the request.
        body: Its body, in the parts that it comes in.
        headers: Those that say what the body is.
    """

    method: str
    path: str
    body: tuple[bytes | memoryview, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Reply(NamedTuple):
    """What the application answers.

    Attributes:
        status: Of HTTP.
        headers: By name, in small letters.
        body: The body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> Mapping[str, str]:
        """What was wrong, and its code; empty for an answer, as "not ready" is one."""
        if self.status < 400:
            return {}
        found: dict[str, str] = orjson.loads(self.body or b"{}")
        if found.keys() & {"live", "ready"}:
            return {}
        return {"error": "the server failed to answer; its log says why", "code": "internal"} | found


async def ask(app: App, asked: Asked, metadata: Iterable[tuple[str, str | bytes]], peer: str) -> Reply:
    """Return what the application answers; it hears of a caller who is cancelled as of one who hung up.

    Args:
        app: The application.
        asked: The request.
        metadata: Of the call; they are the headers, but for those that say what the body is.
        peer: Who calls, as gRPC says it: `ipv4:127.0.0.1:5000`.
    """
    gone = asyncio.Event()
    work = asyncio.ensure_future(_reply(app, _scope(asked, metadata, peer), asked.body, gone))
    _working.add(work)
    work.add_done_callback(_working.discard)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        gone.set()
        raise


async def _reply(app: App, scope: AsgiMessage, body: Iterable[bytes | memoryview], gone: asyncio.Event) -> Reply:
    status, headers, parts, left = 500, {}, [], deque(body or (b"",))

    async def receive() -> AsgiMessage:
        if left:
            return {"type": "http.request", "body": left.popleft(), "more_body": bool(left)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: AsgiMessage) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            parts.append(message.get("body", b""))

    with suppress(Exception):  # the application has answered and logged it
        await app(scope, receive, send)
    return Reply(status, headers, b"".join(parts))


def headers_of(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the metadata of a call as headers, without those that say what a body is."""
    return [
        (name.encode(), value.encode("latin-1", "replace"))
        for name, value in metadata
        if isinstance(value, str) and not _OWN.fullmatch(name)
    ]


def _scope(asked: Asked, metadata: Iterable[tuple[str, str | bytes]], peer: str) -> AsgiMessage:
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "2",
        "method": asked.method,
        "scheme": "http",
        "path": asked.path,
        "query_string": b"",
        "root_path": "",
        "headers": [
            *headers_of(metadata),
            *asked.headers,
            (b"content-length", str(sum(map(len, asked.body))).encode()),
        ],
        "client": (host_of(host.strip("[]")), int(port)) if port.isdigit() else None,
        "state": {},
    }
