"""HTTP/2 by hand, for calls of gRPC that no client would make. Source: RFC 9113, RFC 7541."""

import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Final

HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_MESSAGE: Final = bytes(5)
"""A message of gRPC in which nothing is."""

_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_ENDS_STREAM, _ENDS_HEADERS = 1, 4
_WINDOW = 4  # the setting of how much of an answer may come at once


def settings(window: int | None = None) -> bytes:
    """Return the settings that a client begins with; with a window of 0 it takes no answer."""
    return _frame(_SETTINGS, 0, 0, b"" if window is None else struct.pack(">HI", _WINDOW, window))


def begun(calls: int, path: str, headers: Mapping[str, str], message: bytes = b"") -> bytes:
    """Return so many calls that have begun, each with its message if there is one, else without an end."""
    of_grpc = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers"}
    head = b"".join(_field(*each) for each in (of_grpc | {"content-type": "application/grpc"} | dict(headers)).items())
    frames: Iterable[bytes] = (
        _frame(_HEADERS, _ENDS_HEADERS, stream, head)
        + (_frame(_DATA, _ENDS_STREAM, stream, message) if message else b"")
        for stream in range(1, 2 * calls, 2)
    )
    return b"".join(frames)


def connected(address: str, sent: bytes) -> socket.socket:
    """Connect to `host:port`, and send this."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(HELLO + sent)
    return connection


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def _field(name: str, value: str) -> bytes:
    return b"\0" + _text(name) + _text(value)


def _text(value: str) -> bytes:
    data = value.encode()
    return (bytes([len(data)]) if len(data) < 127 else bytes([127, len(data) - 127])) + data  # up to 254 bytes
