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
        classes: The likeliest (n,).
        confidences: How likely that is (n,); not finite where a row of `probabilities` is not.
        beside: What a `Yardstick` measures (n, 2), for drift; None of any but the frozen model, and where the bundle
            lacks the source's numbers.
    """

    probabilities: npt.NDArray[np.float32]
    entropies: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float32]
    beside: npt.NDArray[np.float32] | None = None

    def only(self, places: npt.NDArray[np.int64] | slice) -> "Scores":
        """Return what it says of some of the images."""
        probabilities, entropies, classes, confidences, beside = self
        some = None if beside is None else beside[places]
        return Scores(probabilities[places], entropies[places], classes[places], confidences[places], some)


HOME = "source"
"""What an answer calls the domain of images that look like the source's; no domain has this name."""


class Answer(NamedTuple):
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


@dataclass(eq=False)
class Job:
    """A request on its way through the engine.

    Attributes:
        stream: Name of its stream.
        offered: Its images.
        arrived_s: When it came, on a monotonic clock.
        client: Who sent it.
        request_id: What labels that come later call it; empty if nobody can.
        future: The answer to come.
        images: (n, C, H, W).
        rows: How many.
    """

    stream: str
    offered: Offered
    arrived_s: float
    client: str = ""
    request_id: str = ""
    future: "Future[Answer]" = field(default_factory=Future)
    images: Images = field(init=False)
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.images = self.offered.images
        self.rows = len(self.images)


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


@dataclass(eq=False)
class Piece:
    """The images of a request that one state answers.

    Attributes:
        job: The request.
        stream: Whose state: the request's stream, or a domain of it.
        places: Which images of the request, if not all.
        rows: How many.
    """

    job: Job
    stream: Stream
    places: npt.NDArray[np.int64] | None = None
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.job.rows if self.places is None else len(self.places)

    @cached_property
    def offered(self) -> Offered:
        """The images as a window takes them."""
        return self.job.offered if self.places is None else self.job.offered.only(self.places)

    @cached_property
    def images(self) -> Images:
        """(n, C, H, W)."""
        return self.job.images if self.places is None else self.job.images[self.places]


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
        whole: What is said of all images, in the order of the request, but for what a `Yardstick` measures; there once
            all parts are.
    """

    whole: Scores

    def __init__(self, job: Job, stream: Stream, parts: list[Piece], begun_s: float) -> None:
        """Take the request, the stream that it went to, its parts, and when the device began, on a monotonic clock."""
        self.job = job
        self.stream = stream
        self.parts = parts
        self._begun_s = begun_s
        self._apart = stream.tells_apart
        self._source: npt.NDArray[np.integer[Any]] | None = None
        self._found: dict[Piece, Scores] = {}
        self._authors: dict[Piece, Author] = {}

    def see(self, part: Piece, scores: Scores) -> None:
        """Take what the frozen model says of a part, whoever answers it."""
        if part.places is None:  # it is the only part
            self._source = scores.classes
            return
        if self._source is None:
            self._source = np.full(self.job.rows, UNASKED, np.uint32)
        self._source[part.places] = scores.classes

    @property
    def source(self) -> npt.NDArray[np.integer[Any]]:
        """Class that the frozen model sees in each image (n,), or `UNASKED`; for labels that come later."""
        return np.full(self.job.rows, UNASKED, np.uint32) if self._source is None else self._source

    def take(self, part: Piece, scores: Scores, author: Author) -> bool:
        """Take the answer to a part, and whose it is; returns whether all parts are there."""
        self._found[part] = scores
        self._authors[part] = author
        if author.source:
            self.see(part, scores)
        if len(self._found) < len(self.parts):
            return False
        self.whole = self._joined() if len(self.parts) > 1 else scores
        return True

    @property
    def frozen(self) -> list[Piece]:
        """The parts that the frozen model has answered."""
        return [part for part, author in self._authors.items() if author.source]

    def scores(self, part: Piece) -> Scores:
        """Return the answer to a part that was taken."""
        return self._found[part]

    def _joined(self) -> Scores:
        order = np.argsort(np.concatenate([_places(part) for part in self.parts]))
        columns = zip(*(self._found[part][:4] for part in self.parts), strict=True)
        return Scores(*(np.concatenate(column)[order] for column in columns))

    def answer(self) -> Answer:
        """Return the answer, once all parts are there."""
        scores, authors = self.whole, [*self._authors.values()]
        return Answer(
            scores.probabilities,
            scores.entropies,
            self.job.stream,
            authors[-1].version,
            any(author.adapted for author in authors),
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
