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

Classes = npt.NDArray[np.integer[Any]]
_CLASS = np.dtype(np.uint32)


@dataclass(eq=False, slots=True)
class Answered:
    """What is kept of an answered request; of 100,000 each byte counts.

    Attributes:
        stream: Whose it was.
        predicted: Class of each image that was answered, as bytes: integers of Python's take eight times as much.
        by_source: Whether the source gave this answer, so that nobody need ask it again.
        images: Else the images (n, C, H, W), as long as there is room: the source is asked when labels come.
        labelled: Places that labels came for; each counts once.
    """

    stream: str
    predicted: bytes
    by_source: bool
    images: Images | None
    labelled: frozenset[int] = frozenset()

    @property
    def classes(self) -> Classes:
        """The classes (n,)."""
        return np.frombuffer(self.predicted, _CLASS)


class Ledger:
    """Keep the newest answers, and count which were right."""

    def __init__(self, max_bytes: int) -> None:
        """Keep images of at most `max_bytes` together, and the answers of at most 100,000 requests."""
        self._max_bytes = max_bytes
        # By id; and by stream where several have used one, for nobody owns an id.
        self._answers: OrderedDict[str, Answered | dict[str, Answered]] = OrderedDict()
        self._with_images: OrderedDict[Answered, None] = OrderedDict()
        self._requests = 0
        self._bytes = 0
        self._counts: dict[str, Counter[str]] = {}

    def add(self, request_id: str, stream: str, predicted: Classes, images: Images | None) -> None:
        """Keep an answer; one of the same stream with the same id gives its place to it.

        Args:
            request_id: Of the request.
            stream: That answered it.
            predicted: Class of each image (n,).
            images: The images (n, C, H, W); None if it was the source that answered.
        """
        self._forget(request_id, stream)
        answered = Answered(stream, predicted.astype(_CLASS).tobytes(), images is None, images)
        held = self._answers.setdefault(request_id, answered)
        if held is not answered:
            if isinstance(held, Answered):
                held = self._answers[request_id] = {held.stream: held}
            held[stream] = answered
            self._answers.move_to_end(request_id)
        self._requests += 1
        if images is not None:
            self._with_images[answered] = None
            self._bytes += images.nbytes
        while self._bytes > self._max_bytes and self._with_images:
            self._release(next(iter(self._with_images)))
        while self._requests > _MOST_REQUESTS:
            oldest = next(iter(self._answers))
            self._forget(oldest, self.streams_of(oldest)[0])

    def streams_of(self, request_id: str) -> list[str]:
        """Return the streams that have a request with this id, the oldest first."""
        held = self._answers.get(request_id, {})
        return [held.stream] if isinstance(held, Answered) else [*held]

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
        answered = self._find(request_id, stream)
        if answered is None or not 0 <= index < len(answered.classes) or index in answered.labelled:
            return None
        answered.labelled |= {index}
        right = int(answered.classes[index]) == label
        counts = self._counts.setdefault(answered.stream, Counter())
        counts["adapted"] += 1
        counts["adapted_right"] += int(right)
        if answered.images is not None:
            right = int(ask(answered.images[index : index + 1])[0]) == label
        if answered.images is not None or answered.by_source:
            counts["source"] += 1
            counts["source_right"] += int(right)
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
        everything = self._answers.items()  # often many: 100,000 calls would take 10 ms
        theirs = [
            request_id
            for request_id, held in everything
            if (stream in held if isinstance(held, dict) else held.stream == stream)
        ]
        for request_id in theirs:
            self._forget(request_id, stream)

    def _find(self, request_id: str, stream: str) -> Answered | None:
        held = self._answers.get(request_id)
        if isinstance(held, dict):
            return held.get(stream)
        return held if held and held.stream == stream else None

    def _forget(self, request_id: str, stream: str) -> None:
        """Forget what a stream answered under an id, if it did."""
        held, answered = self._answers.get(request_id), self._find(request_id, stream)
        if not answered:
            return
        if isinstance(held, dict) and len(held) > 1:
            del held[stream]
        else:
            del self._answers[request_id]
        self._requests -= 1
        self._release(answered)

    def _release(self, answered: Answered) -> None:
        if answered.images is not None:
            del self._with_images[answered]
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
