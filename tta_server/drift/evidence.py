"""Evidence of drift, gathered window by window: a sequential test with a stated rate of false alarms. Values.

Each window is a bet against "no drift": what it pays is 1 on average while that is so, and much where the scores are
strange. Winnings are multiplied, from 1 again whenever they fall below it, so that the test waits for a change at any
time. While nothing drifts, an alarm at 1 / a comes on average at most once in 1 / a windows, whatever the scores have
to do with each other.

Source: Shin, Ramdas & Rinaldo, arXiv:2203.03532 (the test, its CUSUM form and its rate); Vovk & Wang, Ann. Stat. 2021,
arXiv:1912.06116, section 2 (the bet of a p value, and that a mean of bets is one).
Differs: no window pays more than 100, so that no single one raises an alarm; scores are taken to spread a quarter wider
than the bundle says, because it knows them from few images. Windows that depend on each other, as those of a camera do,
make false alarms more likely than the rate says; on one that shows hardly more than one scene nothing is bet.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tta_server.drift.nulls import Null
from tta_server.drift.scores import EXPLAINED
from tta_server.telemetry.closed_sets import DriftScore, JudgedScore

WIDENED: Final = 1.25
TESTED: Final = EXPLAINED
"""The scores that together say whether the input drifts."""

SHIFT: Final[JudgedScore] = "prediction_divergence_ratio"
"""The score that says whether other classes are seen, which is no fault by itself."""

QUIET: Final = 2.0
"""A window that pays less speaks for no drift: of clean ones 97 in 100 do, and 89 in 100 pay less than 1."""

_MOST_PAID = 100.0
_MOST_LOG = math.log(1e12)


@dataclass(frozen=True)
class Evidence:
    """What was won so far, as natural logarithms, all >= 0.

    Attributes:
        log: On all tested scores together.
        each: On each of them alone, and on the shift of classes.
        began: When the run began that `log` was won in; empty while it is 0. ISO 8601 in UTC.
        calm: Windows in a row that paid less than `QUIET` on all tested scores together.
        same: Windows in a row that paid less than `QUIET` on the shift of classes.
    """

    log: float = 0.0
    each: Mapping[JudgedScore, float] = field(default_factory=dict)
    began: str = ""
    calm: int = 0
    same: int = 0

    def after(self, chances: Mapping[JudgedScore, float], time: str) -> "Evidence":
        """Return the evidence after one more window.

        Args:
            chances: How likely each score would be without drift, in (0, 1].
            time: When the window was seen.
        """
        paid = {name: min(_MOST_PAID, bet(chance)) for name, chance in chances.items()}
        together = math.fsum(paid[name] for name in TESTED) / len(TESTED)
        log = _won(self.log, together)
        return Evidence(
            log=log,
            each={name: _won(self.each.get(name, 0.0), one) for name, one in paid.items()},
            began=(self.began or time) if log else "",
            calm=self.calm + 1 if together < QUIET else 0,
            same=self.same + 1 if paid[SHIFT] < QUIET else 0,
        )

    @property
    def loudest(self) -> JudgedScore:
        """The tested score that won most."""
        return max(TESTED, key=lambda name: self.each.get(name, 0.0))


def chances_of(
    scores: Mapping[DriftScore, float], known: Mapping[DriftScore, Null], doubts: Mapping[JudgedScore, float]
) -> dict[JudgedScore, float]:
    """Return how likely the scores that bets are made on would be without drift.

    Args:
        scores: Of a window.
        known: What they are without drift.
        doubts: Variance of what the window's classes were taken to explain of a score.
    """
    return {
        name: known[name].p(scores[name], _widened(known[name], doubts.get(name, 0.0))) for name in (*TESTED, SHIFT)
    }


def _widened(known: Null, doubt: float) -> float:
    return WIDENED * math.sqrt(1 + doubt / known.std**2) if doubt and known.std else WIDENED


def bet(chance: float) -> float:
    """Return what a p value pays: the mean of k p^(k - 1) over k from 0 to 1, which is 1 on average without drift."""
    if chance > 1 - 1e-4:  # the limit, where the fraction loses its digits
        return 0.5
    log = math.log(chance)
    return (1 - chance + chance * log) / (chance * log * log)


def _won(log: float, paid: float) -> float:
    return min(_MOST_LOG, max(0.0, log + math.log(paid)))
