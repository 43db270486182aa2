"""The least of an HTTP client: it must cost less than the server that it shares the machine with.

General clients take about a millisecond of CPU a request, and more the more requests are under way; then an open loop
measures its client.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple

import httpx

_IDLE_S = 2.0
"""Servers close idle connections, uvicorn after 5 s; a request sent at that moment would be lost by our own fault."""


class Reply(NamedTuple):
    """What came back.

    Attributes:
        status: HTTP status.
        body: The whole body.
        retry_after: The header of that name; empty if there is none.
    """

    status: int
    body: bytes
    retry_after: str


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    free_s: float


class Connections:
    """Connections to one server, as many as there are requests under way; each is used again when it is free."""

    def __init__(self, url: str) -> None:
        """Open none yet; `url` is `http://host:port`."""
        address = httpx.URL(url)
        self._host, self._port = address.host, address.port or 80
        self._free: list[_Connection] = []

    async def post(self, path: str, headers: Mapping[str, str], content: bytes) -> Reply:
        """Send a request and return the answer.

        Raises:
            OSError: If the server cannot be reached, or hangs up.
            EOFError: If it hangs up within the answer.
        """
        reader, writer = await self._take()
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._host}:{self._port}", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + content)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            body = await reader.readexactly(int(_header(head, "content-length")))
        except BaseException:
            writer.close()
            raise
        self._free.append(_Connection(reader, writer, time.monotonic()))
        return Reply(int(head.split(" ", 2)[1]), body, _header(head, "retry-after"))

    async def close(self) -> None:
        """Close all connections; none may be in use."""
        for connection in self._free:
            connection.writer.close()
        await asyncio.gather(*(each.writer.wait_closed() for each in self._free), return_exceptions=True)
        self._free.clear()

    async def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._free:
            reader, writer, free_s = self._free.pop()
            if time.monotonic() - free_s < _IDLE_S and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)


def _header(head: str, name: str) -> str:
    return head.partition(f"\r\n{name}:")[2].partition("\r\n")[0].strip()
