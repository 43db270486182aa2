"""What operators may ask of images that are shown to a stream aside: what it and the frozen model say of them."""

import time
from typing import NamedTuple

import numpy as np

from tta_server.runtime.commands.desk import Desk
from tta_server.runtime.job import HOME, Job, Scores
from tta_server.runtime.work.answerer import Answerer
from tta_server.runtime.work.router import Router
from tta_server.streams.stream import Stream
from tta_server.streams.window import Offered


class Beside(NamedTuple):
    """What is said of one image.

    Attributes:
        domain: What the image is taken for: `HOME`, a domain, or empty if it is new or the stream tells none apart.
        adapted: Whether a request with it would be answered by what the stream has learnt.
        source: What the frozen model says (1 image).
        learnt: What the state of the stream, or of the domain, says (1 image); None if it has none for it.
    """

    domain: str
    adapted: bool
    source: Scores
    learnt: Scores | None


class CompareCommands:
    """Answer images twice, and change and count nothing; the device thread alone may call it."""

    def __init__(self, desk: Desk, answerer: Answerer, router: Router | None) -> None:
        """Take the streams, who answers, and who tells domains apart, if any."""
        self._desk = desk
        self._answerer = answerer
        self._router = router

    def compare(self, name: str, offered: Offered) -> tuple[int, list[Beside]]:
        """Return the version of a stream, or of a domain, and what is said of each image.

        Raises:
            NotFound: If there is no such stream.
        """
        stream = self._desk.streams.existing(name)
        source = self._answerer.frozen(offered.images)
        whose = self._domains(stream, offered)
        found: list[Beside | None] = [None] * len(whose)
        for domain in dict.fromkeys(whose):
            places = np.array([place for place, one in enumerate(whose) if one == domain])
            answers = self._state_of(stream, domain)
            learnt = self._answerer.learnt(answers, offered.images[places]) if answers else None
            for row, place in enumerate(places):
                own = learnt.only(slice(row, row + 1)) if learnt else None
                adapted = answers is not None and answers.adapted
                found[place] = Beside(domain, adapted, source.only(slice(place, place + 1)), own)
        return stream.version, [one for one in found if one is not None]

    def _domains(self, stream: Stream, offered: Offered) -> list[str]:
        if stream.parent:
            return [stream.name] * len(offered.images)
        if self._router is None or not stream.tells_apart:
            return [""] * len(offered.images)
        return self._router.would(Job(stream.name, offered, time.monotonic()), stream)

    def _state_of(self, stream: Stream, domain: str) -> Stream | None:
        """Return whose state speaks; None if nothing was learnt of such images."""
        if domain == stream.name or (not domain and stream.whereabouts is None):
            return stream
        return self._desk.streams.existing(domain) if domain not in ("", HOME) else None
