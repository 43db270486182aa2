"""Which requests were answered how, so that labels that come later can be compared with the answers."""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from tta_server.streams.event import StreamEvent
from tta_server.streams.window import Images

_MOST_REQUESTS = 100_000
_Z = NormalDist().inv_cdf(0.975)

_Key = tuple[str, str]  # of a request and of the stream that answered it
Classes = npt.NDArray[np.integer[Any]]


@dataclass(eq=False)
class Answered:
    """What is kept of an answered request.

    Attributes:
        stream: Whose it was.
        predicted: Class of each image that was answered (n,).
        images: The images (n, C, H, W), as long as there is room: the source is asked when labels come.
        labelled: Places that labels came for; each counts once.
    """

    stream: str
    predicted: Classes
    images: Images | None
    labelled: set[int]


class Ledger:
    """Keep the newest answers, and count which were right."""

    def __init__(self, max_bytes: int) -> None:
        """Keep images of at most `max_bytes` together, and the answers of at most 100,000 requests."""
        self._max_bytes = max_bytes
        self._answers: OrderedDict[_Key, Answered] = OrderedDict()
        self._with_images: OrderedDict[_Key, Answered] = OrderedDict()
        self._streams: dict[str, dict[str, None]] = {}  # those with a request of that id; nobody owns an id
        self._bytes = 0
        self._counts: dict[str, Counter[str]] = {}

    def add(self, request_id: str, stream: str, predicted: Classes, images: Images) -> None:
        """Keep an answer; one of the same stream with the same id gives its place to it."""
        key = (request_id, stream)
        self._forget(key)
        answered = Answered(stream, predicted, images, set())
        self._answers[key] = self._with_images[key] = answered
        self._streams.setdefault(request_id, {})[stream] = None
        self._bytes += images.nbytes
        while self._bytes > self._max_bytes and self._with_images:
            _, oldest = self._with_images.popitem(last=False)
            self._release(oldest)
        while len(self._answers) > _MOST_REQUESTS:
            self._forget(next(iter(self._answers)))

    def streams_of(self, request_id: str) -> list[str]:
        """Return the streams that have a request with this id, the oldest first."""
        return list(self._streams.get(request_id, ()))

    def label(
        self, request_id: str, stream: str, index: int, label: int, ask: Callable[[Images], Classes]
    ) -> str | None:
        """Count one true label.

        Args:
            request_id: Of the request.
            stream: That answered it.
            index: Place of the image in it.
            label: Its true class.
            ask: From images (1, C, H, W) to the source model's classes (1,).

        Returns:
            The stream that it counts for; None if the request or image is unknown, or was labelled before.
        """
        answered = self._answers.get((request_id, stream))
        if answered is None or not 0 <= index < len(answered.predicted) or index in answered.labelled:
            return None
        answered.labelled.add(index)
        counts = self._counts.setdefault(answered.stream, Counter())
        counts["adapted"] += 1
        counts["adapted_right"] += int(answered.predicted[index] == label)
        if answered.images is not None:
            counts["source"] += 1
            counts["source_right"] += int(ask(answered.images[index : index + 1])[0] == label)
        return answered.stream

    def accuracy(self, stream: str) -> dict[str, dict[str, float]]:
        """Return for "adapted" and "source": `labels`, and with any, `accuracy` and its 95 % interval `low`, `high`."""
        counts = self._counts.get(stream, Counter())
        return {variant: _accuracy(counts[f"{variant}_right"], counts[variant]) for variant in ("adapted", "source")}

    def hear(self, event: StreamEvent) -> None:
        """Forget a stream that was deleted."""
        if event.kind == "delete":
            self.forget(event.stream)

    def forget(self, stream: str) -> None:
        """Erase everything of a stream."""
        self._counts.pop(stream, None)
        for key in [key for key in self._answers if key[1] == stream]:
            self._forget(key)

    def _forget(self, key: _Key) -> None:
        answered = self._answers.pop(key, None)
        if answered is None:
            return
        request_id, stream = key
        del self._streams[request_id][stream]
        if not self._streams[request_id]:
            del self._streams[request_id]
        if self._with_images.pop(key, None) is not None:
            self._release(answered)

    def _release(self, answered: Answered) -> None:
        if answered.images is not None:
            self._bytes -= answered.images.nbytes
            answered.images = None


def _accuracy(right: int, count: int) -> dict[str, float]:
    if not count:
        return {"labels": 0}
    low, high = wilson(right, count)
    return {"labels": count, "accuracy": right / count, "low": low, "high": high}


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, by E. B. Wilson, JASA 22 (1927).

    Args:
        right: Successes, 0 to `count`.
        count: Trials, at least 1.
    """
    share, squared = right / count, _Z**2
    centre = (share + squared / (2 * count)) / (1 + squared / count)
    half = _Z / (1 + squared / count) * math.sqrt(share * (1 - share) / count + squared / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)
