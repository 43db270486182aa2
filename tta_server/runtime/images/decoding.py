"""Decoding: who may decode how much, at the same time and how long."""

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from tta_server.errors import Overloaded, TooLarge
from tta_server.models.preprocess import Pixels
from tta_server.runtime.images.codec import Opened, Transform
from tta_server.settings_door import LimitsSettings

TINY_BYTES, TINY_PIXELS = 16 * 2**10, 128 * 128
"""Up to so many bytes, sent and decoded, and so many pixels a request is decoded where it is: in less than 0.3 ms."""
SMALL_PIXELS = 1_000_000
"""Up to so many pixels a request is decoded at once; they take some ten milliseconds."""

_PIXELS_A_SECOND = 10_000_000  # of a PNG, the slowest of the common formats, with one thread of an ordinary CPU


class Patience:
    """How long the decoding of one request may go on; it is asked between two images, for a decoder cannot be stopped.

    What one image takes is bounded by the limits on its pixels and scans.
    """

    def __init__(self, most_s: float) -> None:
        """Begin to wait when the first image is begun."""
        self._most_s = most_s
        self._until_s = math.inf

    def begin(self) -> None:
        """Let the time run, if it does not yet."""
        self._until_s = min(self._until_s, time.monotonic() + self._most_s)

    def end(self) -> None:
        """Wait no longer: nobody needs the images any more."""
        self._until_s = -math.inf

    def expect(self, name: str, place: int, count: int) -> None:
        """Do nothing while there is time.

        Raises:
            TooLarge: If there is none left.
        """
        if time.monotonic() > self._until_s:
            raise TooLarge(
                f"decoding {count} images took longer than {self._most_s:g} s (limits.decode_timeout_s) and was given "
                f"up at {name}, after {place}; send fewer or smaller images"
            )


class Decoding:
    """Threads that decode, small images apart from large ones, and the room in front of the large ones."""

    def __init__(self, limits: LimitsSettings) -> None:
        """Make the threads; they start with their first work."""
        self.quick = ThreadPoolExecutor(limits.decode_threads, thread_name_prefix="decode")
        self.large = ThreadPoolExecutor((limits.decode_threads + 1) // 2, thread_name_prefix="decode-large")
        self._most_pixels = limits.decoding_pixels
        self._pixels = 0
        self._lock = threading.Lock()
        self._most_s = limits.decode_timeout_s

    def patience(self) -> Patience:
        """Return how long a request's images may be decoded."""
        return Patience(self._most_s)

    @contextmanager
    def room(self, pixels: int) -> Iterator[None]:
        """Keep room for images of so many pixels until the block ends.

        Raises:
            TooLarge: If there is never room for so many.
            Overloaded: If there is none now.
        """
        if pixels > self._most_pixels:
            raise TooLarge(
                f"the images of this request have {pixels} pixels together, and this server decodes at most "
                f"{self._most_pixels} at a time (limits.max_decoding_pixels); send fewer or smaller images"
            )
        with self._lock:
            if self._pixels + pixels > self._most_pixels:
                raise Overloaded(
                    f"images of {self._pixels} pixels wait to be decoded and this server takes at most "
                    f"{self._most_pixels} at a time (limits.max_decoding_pixels); try again later",
                    math.ceil(self._pixels / _PIXELS_A_SECOND),
                )
            self._pixels += pixels
        try:
            yield
        finally:
            with self._lock:
                self._pixels -= pixels

    def close(self) -> None:
        """Give the threads back; what waits is dropped."""
        self.quick.shutdown(cancel_futures=True)
        self.large.shutdown(cancel_futures=True)


def decode_all(opened: list[Opened], transform: Transform, patience: Patience) -> Pixels:
    """Decode images and bring them into the model's shape.

    Args:
        opened: At least one.
        transform: From an image to uint8 (C, H, W).
        patience: How long it may take.

    Returns:
        uint8 (n, C, H, W), in the order of `opened`.

    Raises:
        BadRequest: If an image is damaged.
        TooLarge: If it takes too long.
    """
    patience.begin()
    images = []
    for place, each in enumerate(opened):
        patience.expect(each.name, place, len(opened))
        images.append(each.decode(transform))
    return np.stack(images) if len(images) > 1 else images[0][None]
