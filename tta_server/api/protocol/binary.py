"""Tensors as bytes: the binary extension of the Open Inference Protocol.

Source: kserve/open-inference-protocol, specification/extensions/binary_data.md.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tta_server.api.protocol.image_tensor import DATATYPES, ImageTensor, expect_allowed, names
from tta_server.api.reading.search import Buffer
from tta_server.errors import BadRequest
from tta_server.runtime.images.codec import Upload

HEADER = "Inference-Header-Content-Length"
"""Names how many bytes of a body are JSON; the bytes of tensors follow."""

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class RawTensor(ImageTensor):
    """Images as the bytes of a tensor, row-major and little-endian.

    Attributes:
        data: The bytes, as many as the shape takes.
    """

    data: memoryview

    def read(self) -> npt.NDArray[Any]:
        """Return the images, uint8 or float32 in [0, 1], in memory of their own.

        Raises:
            BadRequest: If a value is none that a pixel has.
        """
        dtype = np.dtype(DATATYPES[self.datatype])
        values = np.frombuffer(self.data, dtype.newbyteorder("<")).reshape(self.shape).astype(dtype)
        expect_allowed(self.datatype, float(values.min()), float(values.max()))
        return values


def split(body: Buffer, length: str | None) -> tuple[Buffer, memoryview | None]:
    """Return the JSON of a body, and the bytes behind it; None without the header that tells them apart.

    Args:
        body: The body.
        length: Value of the header `HEADER`, None if it was not sent.

    Raises:
        BadRequest: If the header says what cannot be.
    """
    if length is None:
        return body, None
    if not (length.isascii() and length.isdigit() and len(length) <= 20 and int(length) <= len(body)):
        raise BadRequest(f"{HEADER} is '{length[:80]}', expected a number of bytes in [0, {len(body)}]")
    return body[: int(length)], memoryview(body)[int(length) :]


def uploads(data: memoryview, count: int) -> tuple[Upload, ...]:
    """Return the elements of a BYTES tensor as files: each is its length, 4 bytes little-endian, and so many bytes.

    Raises:
        BadRequest: If they are not `count`.
    """
    found, place = [], 0
    for name in names(count):
        start = place + _LENGTH.size
        if start > len(data) or (end := start + _LENGTH.unpack_from(data, place)[0]) > len(data):
            raise BadRequest(
                f"{name} ends behind the binary data; each is its length (4 bytes, little-endian) and bytes"
            )
        found.append(Upload(name, bytes(data[start:end])))
        place = end
    if place != len(data):
        raise BadRequest(f"the binary data has {len(data) - place} bytes behind its {count} images")
    return tuple(found)


def written(values: npt.NDArray[Any] | Iterable[str]) -> bytes:
    """Return numbers, or texts as elements of a BYTES tensor, as bytes."""
    if isinstance(values, np.ndarray):
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = [text.encode() for text in values]
    return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
