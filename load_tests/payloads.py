"""Bodies that cost a server more than their sender, and some that are only odd."""

import io
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image

GZIP, ZLIB = 31, 15
"""The formats, by zlib's numbers."""


def form(files: Iterable[bytes]) -> bytes:
    """Return a form of files, whose boundary is `x`."""
    start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    return b"".join(start + file + b"\r\n" for file in files) + b"--x--\r\n"


def tensor_of(text: bytes) -> bytes:
    """Return an infer request with anything in place of its values."""
    return b'{"inputs":[{"name":"input","datatype":"UINT8","shape":[1,3,32,32],"data":[' + text + b"]}]}"


def grey_png(side: int) -> bytes:
    """Return a small file that is a large picture."""
    return _encoded(np.tile(np.arange(200, dtype=np.uint8), (side, side // 200 + 1))[:, :side], "PNG")


def jpeg_of_scans(count: int, side: int = 64) -> bytes:
    """Return a progressive JPEG that repeats its last scan."""
    data = _encoded(np.zeros((side, side), np.uint8), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def tiff_of(jpeg: bytes, side: int) -> bytes:
    """Return a TIFF around a grey JPEG."""
    tags = ((256, side), (257, side), (258, 8), (259, 7), (262, 1), (273, 8), (277, 1), (278, side), (279, len(jpeg)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    padded = jpeg + bytes(len(jpeg) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(padded)) + padded + struct.pack("<H", len(tags)) + entries + bytes(4)


def small_png() -> bytes:
    """Return a good picture of 32 x 32 pixels."""
    return _encoded(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3), "PNG")


def png_with(kind: bytes, content: bytes) -> bytes:
    """Return a PNG with one more chunk before its picture."""
    data = small_png()
    return data[:33] + _chunk(kind, content) + data[33:]


def png_of(packed: bytes) -> bytes:
    """Return a PNG of 32 x 32 pixels with something else in place of its picture."""
    shape = struct.pack(">2I5B", 32, 32, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", shape) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def bomb(gibibytes: int, window_bits: int) -> bytes:
    """Return a megabyte a gibibyte of `GZIP` or `ZLIB` that zeros come out of; its end is missing."""
    packer = zlib.compressobj(9, zlib.DEFLATED, window_bits)
    start = packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)  # stands alone, so it may be repeated
    return start + again * (64 * gibibytes)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _encoded(levels: np.ndarray, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, form, **options)
    return file.getvalue()
