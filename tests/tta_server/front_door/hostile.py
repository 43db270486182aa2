"""What broken and hostile clients send."""

import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
from PIL import Image

from tests.tta_server.calls import INFER, body, glyph_images
from tests.tta_server.pictures import encoded

PATIENCE_S = 60


@contextmanager
def connected(url: str, sent: bytes = b"") -> Iterator[socket.socket]:
    """Open a connection and send something."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), PATIENCE_S) as connection:
        connection.sendall(sent)
        yield connection


def heard(connection: socket.socket) -> tuple[int, dict]:
    """Return status and body of an answer after which the connection ends; 0 if there is none."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    head, _, content = b"".join(parts).partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(content)) if content else (0, {})


def head(path: str, length: int, method: str = "POST") -> bytes:
    """Return the head of a request with a body."""
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def answers(client: httpx.Client) -> bool:
    """Say whether a good request gets its answer."""
    return client.post(INFER, content=body(glyph_images(0, 1))).status_code == 200


def grey_png(side: int) -> bytes:
    """Return a small file that is a large picture."""
    return encoded(Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (side, side // 200 + 1))[:, :side]), "PNG")


def jpeg_of_scans(count: int, side: int = 64) -> bytes:
    """Return a progressive JPEG that repeats its last scan."""
    data = encoded(Image.fromarray(np.zeros((side, side), np.uint8)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def png_with(kind: bytes, content: bytes) -> bytes:
    """Return a PNG with one more chunk before its picture."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).save(buffer, "PNG")
    data = buffer.getvalue()
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data[:33] + chunk + data[33:]


def tensor_of(text: bytes) -> bytes:
    """Return an infer request with anything in place of its values."""
    return b'{"inputs":[{"name":"input","datatype":"UINT8","shape":[1,3,32,32],"data":[' + text + b"]}]}"
