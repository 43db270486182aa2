"""A request on its way through the engine, the parts that it is answered in, and its answer; an operator's command."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tta_server.streams.ledger import UNASKED
from tta_server.streams.stream import Stream
from tta_server.streams.window import Images, Offered


class Scores(NamedTuple):
    """What a model says of n images, on the host.

    Attributes:
        probabilities: (n, K).
        entropies: In nats (n,).
        beside: What a `Yardstick` measures (n, 2), for drift; None of any but the frozen model, and where the bundle
            lacks the source's numbers.
    """

    probabilities: npt.NDArray[np.float32]
    entropies: npt.NDArray[np.float32]
    beside: npt.NDArray[np.float32] | None = None

    def only(self, places: npt.NDArray[np.int64] | slice) -> "Scores":
        """Return what it says of some of the images."""
        beside = None if self.beside is None else self.beside[places]
        return Scores(self.probabilities[places], self.entropies[places], beside)


HOME = "source"
"""What an answer calls the domain of images that look like the source's; no domain has this name."""


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        probabilities: (n, K) float32, each row sums to 1.
        entropy_nats: (n,) float32.
        stream: Name of the stream that answered.
        version: Version of its state when it answered.
        adapted: Whether a state that has learnt something answered any of the images, not the source.
        domains: Domain of each image, or `HOME`; empty if the stream tells none apart.
        queue_s: How long the request waited for the device.
        device_s: How long the device was at it, and at those that it was answered together with.
    """

    probabilities: npt.NDArray[np.float32]
    entropy_nats: npt.NDArray[np.float32]
    stream: str
    version: int
    adapted: bool
    domains: tuple[str, ...] = ()
    queue_s: float = 0.0
    device_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Job:
    """A request on its way through the engine.

    Attributes:
        stream: Name of its stream.
        offered: Its images.
        arrived_s: When it came, on a monotonic clock.
        client: Who sent it.
        request_id: What labels that come later call it; empty if nobody can.
        future: The answer to come.
    """

    stream: str
    offered: Offered
    arrived_s: float
    client: str = ""
    request_id: str = ""
    future: "Future[Answer]" = field(default_factory=Future)

    @cached_property
    def images(self) -> Images:
        """(n, C, H, W)."""
        return self.offered.images

    @cached_property
    def rows(self) -> int:
        """Images in the request."""
        return len(self.images)


class Command(NamedTuple):
    """What an operator wants done between two groups of answers.

    Attributes:
        run: Does it.
        future: What came of it, or the error.
    """

    run: Callable[[], Any]
    future: "Future[Any]"

    def carry_out(self) -> None:
        """Do it, unless whoever asked is gone."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.run())
        except Exception as error:
            self.future.set_exception(error)


@dataclass(frozen=True, eq=False)
class Piece:
    """The images of a request that one state answers.

    Attributes:
        job: The request.
        stream: Whose state: the request's stream, or a domain of it.
        places: Which images of the request, if not all.
    """

    job: Job
    stream: Stream
    places: npt.NDArray[np.int64] | None = None

    @cached_property
    def offered(self) -> Offered:
        """The images as a window takes them."""
        return self.job.offered if self.places is None else self.job.offered.only(self.places)

    @cached_property
    def images(self) -> Images:
        """(n, C, H, W)."""
        return self.job.images if self.places is None else self.job.images[self.places]

    @cached_property
    def rows(self) -> int:
        """How many images."""
        return self.job.rows if self.places is None else len(self.places)


class Author(NamedTuple):
    """Whose answer it is, as it was when the answer was given.

    Attributes:
        version: Of the stream's state.
        adapted: Whether a state answered that has learnt something.
        source: Whether it was the frozen model that was asked.
    """

    version: int
    adapted: bool
    source: bool


class Draft:
    """An answer that is put together from its parts.

    Attributes:
        job: The request.
        stream: That it went to.
        parts: Those that it is answered in.
        source: Class that the frozen model sees in each image (n,), or `UNASKED`; for labels that come later.
    """

    def __init__(self, job: Job, stream: Stream, parts: list[Piece], begun_s: float) -> None:
        """Take the request, the stream that it went to, its parts, and when the device began, on a monotonic clock."""
        self.source = np.full(job.rows, UNASKED, np.uint32)
        self.job = job
        self.stream = stream
        self.parts = parts
        self._begun_s = begun_s
        self._apart = stream.tells_apart
        self._found: dict[Piece, Scores] = {}
        self._authors: dict[Piece, Author] = {}

    def see(self, part: Piece, scores: Scores) -> None:
        """Take what the frozen model says of a part, whoever answers it."""
        self.source[_places(part)] = scores.probabilities.argmax(1)

    def take(self, part: Piece, scores: Scores, author: Author) -> bool:
        """Take the answer to a part, and whose it is; returns whether all parts are there."""
        self._found[part] = scores
        self._authors[part] = author
        if author.source:
            self.see(part, scores)
        return len(self._found) == len(self.parts)

    @property
    def frozen(self) -> list[Piece]:
        """The parts that the frozen model has answered."""
        return [part for part, author in self._authors.items() if author.source]

    def scores(self, part: Piece) -> Scores:
        """Return the answer to a part that was taken."""
        return self._found[part]

    def answer(self) -> Answer:
        """Return the whole answer, in the order of the request."""
        if len(self.parts) == 1:
            probabilities, entropies, _ = self._found[self.parts[0]]
        else:
            order = np.argsort(np.concatenate([_places(part) for part in self.parts]))
            found = [self._found[part] for part in self.parts]
            probabilities = np.concatenate([scores.probabilities for scores in found])[order]
            entropies = np.concatenate([scores.entropies for scores in found])[order]
        return Answer(
            probabilities,
            entropies,
            self.job.stream,
            next(reversed(self._authors.values())).version,
            any(author.adapted for author in self._authors.values()),
            self._domains(),
            self._begun_s - self.job.arrived_s,
            time.monotonic() - self._begun_s,
        )

    def _domains(self) -> tuple[str, ...]:
        if not self._apart:
            return ()
        names = {place: part.stream.name for part in self.parts if part.stream.parent for place in _places(part)}
        return tuple(names.get(place, HOME) for place in range(self.job.rows))


def _places(part: Piece) -> npt.NDArray[np.int64]:
    return np.arange(part.job.rows) if part.places is None else part.places
