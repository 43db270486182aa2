"""Images that are written out as numbers in JSON: read piece by piece, and never as lists of lists."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from tta_server.api.protocol.image_tensor import DATATYPES, ImageTensor, expect_allowed
from tta_server.errors import BadRequest

ONLY_NUMBERS: Final = (
    "input 'data' must hold numbers only, nested evenly or flat; null, text, booleans, NaN and Infinity are none"
)
"""What a caller hears whose list holds something else."""

_PIECE_BYTES = 2**14  # what is read in one go: other threads wait so long, which is about a quarter of a millisecond
_STRUCTURE = b"[],"
_NO_STRUCTURE = bytes(set(range(256)) - set(_STRUCTURE))
_OPENED = bytes.maketrans(b"[]", b"  ")


@dataclass(frozen=True)
class NumberText(ImageTensor):
    """Images as the text of a JSON list of numbers, flat or nested.

    Attributes:
        text: The list, with its brackets.
    """

    text: memoryview

    def read(self) -> npt.NDArray[Any]:
        """Return the images, uint8 or float32 in [0, 1].

        A list is nested evenly exactly if, with its numbers left out, it is the text that its shape gives; so that no
        list has to be built, and its numbers can be read as if they were flat.

        Raises:
            BadRequest: If it is no such list, has more or fewer values, or one that is not allowed.
        """
        size = math.prod(self.shape)
        values = np.empty(size, DATATYPES[self.datatype])
        expected = _structure(self.shape if _is_nested(self.text) else (size,))
        done = seen = 0
        low, high = math.inf, -math.inf
        for piece in _pieces(self.text):
            marks = piece.translate(None, _NO_STRUCTURE)
            if not expected.startswith(marks, seen):
                raise self._misfit()
            seen += len(marks)
            found = self._numbers(piece)
            if done + len(found) > size:
                raise self._misfit()
            low, high = min(low, float(found.min())), max(high, float(found.max()))
            self._expect_allowed(found, low, high)
            values[done : done + len(found)] = found
            done += len(found)
        if done != size or seen != len(expected):
            raise self._misfit()
        return values.reshape(self.shape)

    def _numbers(self, piece: bytes) -> npt.NDArray[np.float64]:
        """Return the numbers in a piece, whose commas are between them."""
        if any(letter in piece for letter in (b"t", b"f", b"n")):  # of true, false and null
            raise BadRequest(ONLY_NUMBERS)
        try:
            found = orjson.loads(b"[" + piece.translate(_OPENED).strip(b" \t\r\n").removesuffix(b",") + b"]")
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"{ONLY_NUMBERS} ({error.msg})") from error
        if not found:
            raise self._misfit()
        return np.array(found, np.float64)

    def _expect_allowed(self, found: npt.NDArray[np.float64], low: float, high: float) -> None:
        whole = self.datatype != "UINT8" or bool((found == np.floor(found)).all())
        expect_allowed(self.datatype, low, high, whole)

    def _misfit(self) -> BadRequest:
        count = f"{math.prod(self.shape)} numbers, nested evenly or flat"
        return BadRequest(f"input 'data' does not fit shape {list(self.shape)}; expected {count}")


def _is_nested(text: memoryview) -> bool:
    return bytes(text[1:64]).lstrip().startswith(b"[")


def _structure(shape: tuple[int, ...]) -> bytes:
    """Return what is left of a nested list of this shape when its numbers are left out."""
    text = b""
    for length in reversed(shape):
        text = b"[" + b",".join([text] * length) + b"]"
    return text


def _pieces(text: memoryview) -> Iterator[bytes]:
    """Yield a text in pieces that end behind a comma."""
    start = 0
    while start < len(text):
        piece = bytes(text[start : start + _PIECE_BYTES])
        if start + len(piece) < len(text):
            end = piece.rfind(b",") + 1
            if not end:
                raise BadRequest(ONLY_NUMBERS)
            piece = piece[:end]
        yield piece
        start += len(piece)
