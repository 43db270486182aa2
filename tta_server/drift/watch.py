"""What is known of the drift of one stream: a value of bounded size."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tta_server.drift.evidence import SHIFT, Evidence
from tta_server.telemetry.closed_sets import DRIFT_STATES, DriftCause, DriftScore, DriftState

ASTRAY_IMAGES: Final = 32
"""So many more images that look unlike the source's than like them are drift; so many more that look like them end it.

Two sums, each from 0 again whenever it falls below: the CUSUM of Page, Biometrika 1954, with a step of 1 an image.
"""

CALM_WINDOWS: Final = 3
"""So many windows in a row without evidence of drift end it."""

Rows = npt.NDArray[np.float64]
"""Numbers, a row each; of images (n, 5), the fields of `ImageScores`."""


class Limits(NamedTuple):
    """From which evidence on a stream is in which state; natural logarithms.

    Attributes:
        warning: For a warning.
        drift: For drift.
    """

    warning: float
    drift: float

    @classmethod
    def once_in(cls, windows: float) -> "Limits":
        """Return those that let a false alarm come at most once in so many windows on average."""
        return cls(math.log(windows) / 2, math.log(windows))


@dataclass(frozen=True)
class Learnt:
    """What the last window that was learnt from says.

    Attributes:
        measures: Agreement of the stream with the frozen model and the estimated accuracy of the stream, both in
            [0, 1], and what the guard measured.
        scores: Scores of the normalisation layers, as the stream's own network saw the window.
        rows: Images in it.
        layers: Path of each layer to how far its input is from the source's, in source standard deviations and nats.
    """

    measures: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[DriftScore, float] = field(default_factory=dict)
    rows: int = 0
    layers: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Watch:
    """What is known of one stream.

    Attributes:
        state: Whether its input drifts.
        since: When that began: the window or the request that the evidence begins with, not the one that was enough.
            ISO 8601 in UTC; empty before the first.
        because: What says so; empty while nothing does.
        evidence: Gathered so far.
        alarmed: Whether the evidence has been enough, and no calm has followed.
        away: Whether its images have lately looked unlike the source's.
        astray: How many more images have lately looked unlike the source's than like them, 0 to `ASTRAY_IMAGES`.
        settled: How many more have looked like them than unlike; likewise.
        first_astray: When the first of those astray came.
        waiting: Images of the window that is not full yet.
        names: Scores that the windows have.
        windows: The last windows as the frozen model saw them, newest last (n, 3 + scores): when the last of its images
            came, in seconds since 1970; the evidence up to it, a natural logarithm; the place of the state after it in
            `DRIFT_STATES`; and the scores.
        shares: Smoothed share of each class in what the frozen model sees (K,); empty before the first window.
        seen: Windows in all.
        learnt: What the last window that was learnt from says.
    """

    state: DriftState = "unknown"
    since: str = ""
    because: DriftCause | None = None
    evidence: Evidence = field(default_factory=Evidence)
    alarmed: bool = False
    away: bool = False
    astray: int = 0
    settled: int = 0
    first_astray: str = ""
    waiting: Rows = field(default_factory=lambda: np.empty((0, 5)))
    names: tuple[DriftScore, ...] = ()
    windows: Rows = field(default_factory=lambda: np.empty((0, 3)))
    shares: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    seen: int = 0
    learnt: Learnt = field(default_factory=Learnt)

    @property
    def bytes(self) -> int:
        """Memory that it takes, about."""
        return sum(array.nbytes for array in (self.waiting, self.shares, self.windows))

    @property
    def scores(self) -> dict[DriftScore, float]:
        """The scores of the last window; empty before the first."""
        return dict(zip(self.names, self.windows[-1, 3:].tolist(), strict=True)) if len(self.windows) else {}

    def waits(self, rows: Rows) -> "Watch":
        """Return it with more images of a window that is not full; without `replace`, which costs six times as much."""
        other = object.__new__(Watch)
        vars(other).update(vars(self), waiting=np.concatenate((self.waiting, rows)))
        return other

    def scored(self, scores: Mapping[DriftScore, float], most: int, time: str) -> "Watch":
        """Return it with the scores of one more window, which has changed the evidence; `most` windows are kept."""
        names = tuple(scores)
        kept = self.windows if names == self.names else np.empty((0, 3 + len(names)))
        came_s = datetime.fromisoformat(time).timestamp()
        row = [came_s, self.evidence.log, DRIFT_STATES.index(self.state), *scores.values()]
        return replace(self, names=names, windows=np.vstack([kept, row])[-most:], seen=self.seen + 1)

    def after(self, evidence: Evidence, limits: Limits, time: str) -> "Watch":
        """Return it once a window has changed the evidence."""
        calm = evidence.same if self.because == SHIFT else evidence.calm
        if self.alarmed and calm >= CALM_WINDOWS:
            return replace(self, evidence=Evidence(), alarmed=False)._judged(limits, time)
        enough = evidence.log >= limits.warning or evidence.each.get(SHIFT, 0.0) >= limits.drift
        return replace(self, evidence=evidence, alarmed=self.alarmed or enough)._judged(limits, time)

    def looked(self, rows: int, away_rows: int, limits: Limits, time: str) -> "Watch":
        """Return it after a request of so many images, some of which looked unlike the source's, wherever they lay."""
        if not away_rows and self.settled >= ASTRAY_IMAGES and not self.away:
            return self  # as nearly always: so many are as good as more
        more = 2 * away_rows - rows
        astray = min(max(self.astray + more, 0), ASTRAY_IMAGES)
        settled = min(max(self.settled - more, 0), ASTRAY_IMAGES)
        away = settled < ASTRAY_IMAGES if self.away else astray == ASTRAY_IMAGES
        first = (self.first_astray or time) if away or astray else ""
        moved = replace(self, astray=astray, settled=settled, away=away, first_astray=first)
        begins = self.state == "unknown" and settled >= ASTRAY_IMAGES
        return moved._judged(limits, time) if begins or away != self.away else moved

    def unlooked(self, limits: Limits, time: str) -> "Watch":
        """Return it once nobody looks any more whether images look like the source's."""
        if not (self.astray or self.settled):
            return self
        return replace(self, astray=0, settled=0, away=False, first_astray="")._judged(limits, time)

    def _judged(self, limits: Limits, time: str) -> "Watch":
        """Say anew which state it is in: worse at once, better only when neither look nor scores say drift any more."""
        if self.away:
            return self._at("drift", self.first_astray or time, "style")
        evidence = self.evidence
        if not self.alarmed:
            return self._at("stable", time, None)
        if evidence.log >= limits.drift:
            return self._at("drift", evidence.began, evidence.loudest)
        if self.state == "drift":
            return self
        because = evidence.loudest if evidence.log >= limits.warning else SHIFT
        return self._at("warning", evidence.began or time, because)

    def _at(self, state: DriftState, since: str, because: DriftCause | None) -> "Watch":
        return self if state == self.state else replace(self, state=state, since=since, because=because)
