"""Connections of which every byte is one's own: what no HTTP library would send, and what comes back."""

import json
import select
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import httpx

PATIENCE_S = 60
"""How long a server may say nothing."""

_PART_BYTES = 2**16


@contextmanager
def connected(url: str, sent: bytes = b"") -> Iterator[socket.socket]:
    """Open a connection and send something; if the server hangs up meanwhile, what it said can still be heard."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), PATIENCE_S) as connection:
        pour(connection, [sent])
        yield connection


def pour(connection: socket.socket, parts: Iterable[bytes], deaf: bool = False) -> None:
    """Send parts until the server answers or hangs up; who is deaf goes on until it hangs up."""
    with suppress(ConnectionError):
        for part in parts:
            for start in range(0, len(part), _PART_BYTES):
                if not deaf and select.select([connection], [], [], 0)[0]:
                    return
                connection.sendall(part[start : start + _PART_BYTES])


def heard(connection: socket.socket) -> tuple[int, dict]:
    """Return status and body of the first answer of a connection that then ends; 0 if there is none of HTTP."""
    parts = []
    with suppress(ConnectionError):
        while part := connection.recv(_PART_BYTES):
            parts.append(part)
    first, _, content = b"".join(parts).partition(b"\r\n\r\n")
    if not first.startswith(b"HTTP/"):
        return 0, {}
    try:
        return int(first.split()[1]), json.loads(content)
    except ValueError:  # several answers, or no JSON
        return int(first.split()[1]), {}


def head(path: str, length: int, method: str = "POST", headers: Mapping[str, str] | None = None) -> bytes:
    """Return the head of a request with a body of so many bytes, the last of its connection."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()
