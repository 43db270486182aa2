"""Images as a tensor of the Open Inference Protocol, however it is written: what it may hold, and how much that is."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from tta_server.errors import BadRequest

DATATYPES: Final[dict[str, type[np.generic]]] = {"FP32": np.float32, "UINT8": np.uint8}

_TOLERANCE = 1e-6  # images that went through a float round trip


@dataclass(frozen=True)
class ImageTensor:
    """Images that have come and are not read yet.

    Attributes:
        datatype: What the numbers are, one of `DATATYPES`.
        shape: (n, C, H, W) of the images.
    """

    datatype: str
    shape: tuple[int, int, int, int]

    @property
    def rows(self) -> int:
        """How many images it holds."""
        return self.shape[0]

    @property
    def decoded_bytes(self) -> int:
        """How much the images take."""
        return size_bytes(self.datatype, self.shape)

    @property
    def names(self) -> list[str]:
        """What an error calls each image."""
        return names(self.rows)


def names(count: int) -> list[str]:
    """Return what an error calls each image of a request."""
    return [f"image {place} of {count}" for place in range(1, count + 1)]


def size_bytes(datatype: str, shape: tuple[int, ...]) -> int:
    """Return how many bytes a tensor has."""
    return math.prod(shape) * np.dtype(DATATYPES[datatype]).itemsize


def expect_allowed(datatype: str, low: float, high: float, whole: bool = True) -> None:
    """Refuse values that pixels cannot have.

    Args:
        datatype: One of `DATATYPES`.
        low: The lowest value; NaN if any is.
        high: The highest.
        whole: Whether all are whole numbers.

    Raises:
        BadRequest: If they are out of range.
    """
    if datatype == "UINT8" and (not (low >= 0 and high <= 255) or not whole):
        raise BadRequest(f"input has values in [{low:g}, {high:g}], expected whole numbers in [0, 255] for UINT8")
    if datatype == "FP32" and not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise BadRequest(
            f"input has values in [{low:g}, {high:g}], expected [0, 1]; send pixels / 255, the server normalises them"
        )
