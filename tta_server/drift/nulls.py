"""What each score is without drift, as the reference bundle keeps it: how far a value is from that, and how likely."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from tta_server.drift.scores import LEVELS
from tta_server.models import Reference
from tta_server.telemetry.closed_sets import DRIFT_SCORES, DriftScore

RISES: frozenset[DriftScore] = frozenset(
    {
        "low_confidence_share",
        "prediction_divergence_ratio",
        "far_feature_share",
        "norm_w2_mean",
        "norm_w2_max",
        "norm_kl_mean",
        "norm_kl_max",
    }
)
"""Scores that drift makes greater; of the others, low values are as strange as high ones."""

_MOST_SIGMAS = 1000.0
_LEAST_P = 1e-12
_LEAST_STEP = 0.5  # standard deviations; the outer two quantiles of a normal score are 0.76 apart


@dataclass(frozen=True)
class Null:
    """One score over windows without drift.

    Attributes:
        mean: Its mean.
        std: Its standard deviation.
        quantiles: At `LEVELS`.
        rises: Whether only a rise is strange.
    """

    mean: float
    std: float
    quantiles: tuple[float, ...]
    rises: bool

    def z(self, value: float) -> float:
        """Return how many standard deviations a value is from the mean, within 1000 either way."""
        apart = value - self.mean
        sigmas = apart / self.std if self.std else _MOST_SIGMAS * ((apart > 0) - (apart < 0))
        return max(-_MOST_SIGMAS, min(_MOST_SIGMAS, sigmas))

    def p(self, value: float, widened: float = 1.0) -> float:
        """Return how likely a value at least as strange is without drift, in [1e-12, 1].

        Between the quantiles that are kept, linear; beyond them, each step as wide as the one between the outer two
        makes it ten times less likely, which is more than a normal score would have it.

        Args:
            value: The score of a window.
            widened: How much wider than the bundle says the score is taken to spread, >= 1.
        """
        value = self.mean + (value - self.mean) / widened
        below, up_to = self._shares(value)
        chance = 1 - below if self.rises else min(1.0, 2 * min(1 - below, up_to))
        if self.rises and value > self.quantiles[-1]:
            chance = self._tail(value - self.quantiles[-1], self.quantiles[-1] - self.quantiles[-2])
        elif not self.rises and value > self.quantiles[-1]:
            chance = 2 * self._tail(value - self.quantiles[-1], self.quantiles[-1] - self.quantiles[-2])
        elif not self.rises and value < self.quantiles[0]:
            chance = 2 * self._tail(self.quantiles[0] - value, self.quantiles[1] - self.quantiles[0])
        return max(_LEAST_P, chance)

    def _shares(self, value: float) -> tuple[float, float]:
        """Return the shares of windows below a value and up to it.

        Where many windows have the same value, all that is known is between which levels they lie: the value is then
        taken for as ordinary as it may be.
        """
        first, last = bisect_left(self.quantiles, value), bisect_right(self.quantiles, value)
        if first < last:
            return (LEVELS[first - 1] if first else 0.0), (LEVELS[last] if last < len(LEVELS) else 1.0)
        if first == 0:
            return 0.0, LEVELS[0]
        if first == len(LEVELS):
            return LEVELS[-1], 1.0
        low, high = self.quantiles[first - 1], self.quantiles[first]
        share = LEVELS[first - 1] + (LEVELS[first] - LEVELS[first - 1]) * (value - low) / (high - low)
        return share, share

    def _tail(self, beyond: float, step: float) -> float:
        step = max(step, _LEAST_STEP * self.std)
        decades = beyond / step if step else _MOST_SIGMAS
        return float(LEVELS[0] * 10 ** -min(decades, _MOST_SIGMAS / 10))


def window_size(reference: Reference, most: int) -> int:
    """Return the largest window, of at most so many images, whose scores a bundle knows; else the smallest.

    Raises:
        ValueError: If it knows none.
    """
    sizes = sorted({int(name.rpartition("_")[2]) for name in reference.part("null")})
    return max([size for size in sizes if size <= most] or sizes[:1])


def nulls(reference: Reference, size: int) -> Mapping[DriftScore, Null]:
    """Return every score that a bundle knows for windows of a size.

    Raises:
        ValueError: If it knows none.
    """
    quantiles, moments = reference.part("null"), reference.part("null_moments")
    found: dict[DriftScore, Null] = {}
    for name in DRIFT_SCORES:
        if (key := f"{name}_{size}") in quantiles:
            mean, std = moments[key].tolist()
            found[name] = Null(mean, std, tuple(quantiles[key].tolist()), name in RISES)
    return found
