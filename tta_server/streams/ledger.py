"""Which requests were answered how, so that labels that come later can be compared with the answers."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tta_server.names import stream_of_domain
from tta_server.streams.event import StreamEvent
from tta_server.streams.window import Images

_MOST_REQUESTS = 100_000
_MOST_LABELS = 1000
_RIGHT, _KNOWN, _SOURCE_RIGHT = 1, 2, 4  # of a label: was the answer right, is the frozen model's known, was that right
_Z = NormalDist().inv_cdf(0.975)

Classes = npt.NDArray[np.integer[Any]]
_CLASS = np.dtype(np.uint32)

UNASKED: Final = 2**32 - 1
"""What stands for the class that the frozen model sees where it was not asked."""


class Label(NamedTuple):
    """A true label that came later.

    Attributes:
        request_id: Of the request that was answered.
        place: Which image of it, from 0.
        label: Its true class.
        stream: That answered it; empty if only one stream has a request of that id.
    """

    request_id: str
    place: int
    label: int
    stream: str = ""


@dataclass(eq=False, slots=True)
class Answered:
    """What is kept of an answered request; of 100,000 each byte counts.

    Attributes:
        stream: Whose it was.
        predicted: Class of each image that was answered, as bytes: integers of Python's take eight times as much.
        frozen: Class that the frozen model sees in each, or `UNASKED`, as bytes too.
        images: Those where it was not asked (m, C, H, W), as long as there is room: it is asked when labels come.
        labelled: Places that labels came for; each counts once.
    """

    stream: str
    predicted: bytes
    frozen: bytes
    images: Images | None
    labelled: frozenset[int] = frozenset()

    @property
    def classes(self) -> Classes:
        """The classes that were answered (n,)."""
        return np.frombuffer(self.predicted, _CLASS)

    @property
    def source(self) -> Classes:
        """Those that the frozen model sees (n,), or `UNASKED`."""
        return np.frombuffer(self.frozen, _CLASS)

    def is_new(self, place: int) -> bool:
        """Say whether there is an image at a place, and no label came for it."""
        return 0 <= place < len(self.classes) and place not in self.labelled

    def image(self, place: int) -> Images | None:
        """Return the image (1, C, H, W) at a place, if the frozen model can and must be asked of it."""
        source = self.source
        if self.images is None or source[place] != UNASKED:
            return None
        row = int((source[:place] == UNASKED).sum())
        return self.images[row : row + 1]


class Ledger:
    """Keep the newest answers, and count which were right: of each stream's last 1,000 labels."""

    def __init__(self, max_bytes: int) -> None:
        """Keep images of at most `max_bytes` together, and the answers of at most 100,000 requests."""
        self._max_bytes = max_bytes
        # By id; and by stream where several have used one, for nobody owns an id.
        self._answers: OrderedDict[str, Answered | dict[str, Answered]] = OrderedDict()
        self._theirs: dict[str, set[str]] = {}  # ids by stream: one that goes must not cost a look at all answers
        self._with_images: OrderedDict[Answered, None] = OrderedDict()
        self._requests = 0
        self._bytes = 0
        self._told: dict[str, bytearray] = {}  # what the labels of a stream said, a byte each

    def add(self, request_id: str, stream: str, predicted: Classes, source: Classes, images: Images) -> None:
        """Keep an answer; one of the same stream with the same id gives its place to it.

        Args:
            request_id: Of the request.
            stream: That answered it.
            predicted: Class of each image (n,).
            source: Class that the frozen model sees in each (n,), or `UNASKED`; `predicted` itself if that answered.
            images: The images (n, C, H, W).
        """
        self._forget(request_id, stream)
        said = predicted.astype(_CLASS).tobytes()
        answered = Answered(stream, said, said, None)
        if source is not predicted:
            frozen, unasked = source.astype(_CLASS).tobytes(), source == UNASKED
            answered.frozen = said if frozen == said else frozen
            if unasked.any():
                answered.images = images if unasked.all() else images[unasked]
        held = self._answers.setdefault(request_id, answered)
        if held is not answered:
            if isinstance(held, Answered):
                held = self._answers[request_id] = {held.stream: held}
            held[stream] = answered
            self._answers.move_to_end(request_id)
        self._theirs.setdefault(stream, set()).add(request_id)
        self._requests += 1
        if answered.images is not None:
            self._with_images[answered] = None
            self._bytes += answered.images.nbytes
        while self._bytes > self._max_bytes and self._with_images:
            self._release(next(iter(self._with_images)))
        while self._requests > _MOST_REQUESTS:
            oldest = next(iter(self._answers))
            self._forget(oldest, self.streams_of(oldest)[0])

    def streams_of(self, request_id: str) -> list[str]:
        """Return the streams that have a request with this id, the oldest first."""
        held = self._answers.get(request_id, {})
        return [held.stream] if isinstance(held, Answered) else [*held]

    def label(self, labels: Sequence[Label], ask: Callable[[Sequence[Images]], Classes]) -> list[str | None]:
        """Count true labels; the frozen model is asked of all their images at once, and nothing counts if it fails.

        Args:
            labels: The labels, each with its stream.
            ask: From n images, each (1, C, H, W), to the frozen model's classes (n,).

        Returns:
            The stream that each counts for; None if the request or image is unknown, or was labelled before.
        """
        found = [(self._find(each.request_id, each.stream), each.place, each.label) for each in labels]
        wanted = {
            (answered, place): image
            for answered, place, _ in found
            if answered and answered.is_new(place) and (image := answered.image(place)) is not None
        }
        source = dict(zip(wanted, map(int, ask([*wanted.values()])), strict=True)) if wanted else {}
        return [self._count(answered, place, label, source) if answered else None for answered, place, label in found]

    def accuracy(self, stream: str) -> dict[str, dict[str, float]]:
        """Return how often a stream was right: `labels`, `accuracy` and its 95 % interval, `low` and `high`.

        Returns:
            For "answered" of every label; for "adapted" and "source", the frozen model, of the images on which that
            one's answer is known too, so that the two can be compared. Where there are none, `labels` alone.
        """
        told = self._said(stream)
        both = told[told & _KNOWN > 0]
        found = {"answered": told & _RIGHT, "adapted": both & _RIGHT, "source": both & _SOURCE_RIGHT}
        return {of: _accuracy(int(np.count_nonzero(right)), len(right)) for of, right in found.items()}

    def gain_sigmas(self, stream: str) -> float | None:
        """Return how much more often a stream was right than the frozen model, in standard deviations of chance.

        Of the images on which one alone of both was right, chance gives each half: Q. McNemar, Psychometrika 12 (1947).

        Returns:
            Negative if the frozen model was right more often; None if no image has an answer of both.
        """
        told = self._said(stream)
        both = told[told & _KNOWN > 0]
        own, source = (int(np.count_nonzero(both == (_KNOWN | right))) for right in (_RIGHT, _SOURCE_RIGHT))
        return (own - source) / math.sqrt(own + source or 1) if len(both) else None

    def hear(self, event: StreamEvent) -> None:
        """Forget a stream that was deleted, or that an operator has go on from elsewhere: labels may come late."""
        if event.kind == "delete":
            self.forget(event.stream)
        if event.redirected:
            self.forget(stream_of_domain(event.stream))

    def forget(self, stream: str) -> None:
        """Erase everything of a stream."""
        self._told.pop(stream, None)
        for request_id in list(self._theirs.get(stream, ())):
            self._forget(request_id, stream)

    def _count(self, answered: Answered, place: int, label: int, asked: dict[tuple[Answered, int], int]) -> str | None:
        if not answered.is_new(place):
            return None
        answered.labelled |= {place}
        said, source = int(answered.classes[place]), asked.get((answered, place), int(answered.source[place]))
        known = source != UNASKED
        told = self._told.setdefault(answered.stream, bytearray())
        told.append(_RIGHT * (said == label) | _KNOWN * known | _SOURCE_RIGHT * (known and source == label))
        del told[:-_MOST_LABELS]
        return answered.stream

    def _said(self, stream: str) -> npt.NDArray[np.uint8]:
        """Return what the labels of a stream said, the newest last."""
        return np.frombuffer(bytes(self._told.get(stream, b"")), np.uint8)

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
        self._theirs[stream].discard(request_id)
        if not self._theirs[stream]:
            del self._theirs[stream]
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
