"""At home: does what a stream sees lie within what the frozen model was trained on?

Then nothing drifts, there is nothing to gain from adapting, and the frozen model should answer. Judged by shares of
images and not by means, so that a minority of strange images, however strange, decides nothing.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tta_server.guard.drift import LEVELS, SourceStatistics, mahalanobis
from tta_server.guard.record import Record, gather, smooth
from tta_server.models import Output, Reference

PARTS = frozenset({"features", "confidence", "energy", "histogram"})
"""What a reference bundle must have."""

_FAR, _LOST = 0.75, 0.95  # quantiles of the source's distances
_UNSURE = 0.05  # quantile of its confidence
_STEADY_IMAGES = 32  # images over which shares of smaller windows are smoothed
_LEAVE_ERRORS = 2.33  # standard errors; a source window exceeds them by chance once in a hundred times
_PRIOR_ROWS = 8  # a class's own scale of distances counts half when that many of its features are remembered


@dataclass(frozen=True)
class Shares:
    """Shares of a window's images.

    Attributes:
        far: Farther from the source than three quarters of its own images.
        unsure: Answered with less confidence than all but a twentieth of its own.
    """

    far: float
    unsure: float

    @property
    def shown(self) -> str:
        """Both, as numbers."""
        return f"{self.far:.0%} or {self.unsure:.0%}"

    def __str__(self) -> str:
        return f"{self.far:.0%} of the images are far from the source and {self.unsure:.0%} unsure"


class HomeReading(NamedTuple):
    """What a model, the adapted or the frozen one, makes of a window.

    Attributes:
        lost: Share of images whose features lie beyond nearly all of the source's.
        accuracy: Share of images that are answered with enough confidence and are not lost: an estimate.
    """

    lost: float
    accuracy: float


class Home:
    """The source data as the frozen model sees them."""

    def __init__(self, reference: Reference) -> None:
        """Take what is needed from the bundle.

        Raises:
            ValueError: If it lacks one of `PARTS`.
        """
        self._source = SourceStatistics.of(reference)
        quantiles = reference.part("features")["distance_quantiles"]
        self._far, self._lost = (quantiles[LEVELS.index(level)] for level in (_FAR, _LOST))
        self._scale = _scales(reference, self._source)
        threshold = self._source.atc_threshold
        self._sure = self._source.confidence_floor if threshold is None else threshold

    def shares(self, frozen: Output) -> Shares:
        """Return the shares of a window (N images) that the frozen model answered."""
        far = self._distances(frozen) > self._far
        unsure = frozen.logits.softmax(1).amax(1) < self._source.confidence_floor
        return Shares(*torch.stack([far, unsure]).double().mean(1).tolist())

    def look(self, record: Record, frozen: Output, outliers: float) -> Record:
        """Take one window into account in where a stream is.

        Args:
            record: Of the stream.
            frozen: What the frozen model says of the window.
            outliers: Share of images that may be strange without anything having drifted.
        """
        shares, images = self.shares(frozen), len(frozen.logits)
        share = _share(images)
        far = smooth(record.far, shares.far, record.weight, share)
        unsure = smooth(record.unsure, shares.unsure, record.weight, share)
        away = is_away(Shares(far, unsure), _behind(images), outliers, record.away)
        record = record.but(far=far, unsure=unsure, weight=gather(record.weight, share), away=away)
        return record if away else record.returned()

    def tolerated(self, images: int, outliers: float) -> Shares:
        """Return the shares from which a stream with windows of so many images would have left home."""
        return tolerated(_behind(images), outliers)

    def reading(self, output: Output) -> HomeReading:
        """Return what a model makes of a window (N images).

        The confidence alone, as in Garg et al., ICLR 2022, arXiv:2201.04234, says that a frozen model under noise is
        nearly always right.
        """
        lost = self._distances(output) > self._lost
        confident = output.logits.softmax(1).amax(1) >= self._sure
        return HomeReading(*torch.stack([lost, confident & ~lost]).double().mean(1).tolist())

    def _distances(self, output: Output) -> Tensor:
        distances = mahalanobis(output.features, self._source.feature_mean, self._source.feature_precision)
        return distances / self._scale[output.logits.argmax(1)]


def _share(images: int) -> float:
    return min(1.0, images / _STEADY_IMAGES)


def _behind(images: int) -> float:
    """Return how many images stand behind shares that are smoothed over windows of so many."""
    return images * (2 - _share(images)) / _share(images)


def is_away(shares: Shares, images: float, outliers: float, was_away: bool) -> bool:
    """Say whether a window is not at home; with hysteresis.

    Args:
        shares: Of the window, or smoothed over several.
        images: How many they are a mean of.
        outliers: Share of images that may be strange without anything having drifted.
        was_away: What was said before.
    """
    limits = tolerated(images, outliers, was_away)
    return shares.far > limits.far or shares.unsure > limits.unsure


def tolerated(images: float, outliers: float, was_away: bool = False) -> Shares:
    """Return the largest shares of a window that is at home; see `is_away`.

    To leave takes shares that chance hardly explains, to come back does not.
    """
    most = [expected * (1 - outliers) + outliers for expected in (1 - _FAR, _UNSURE)]
    return Shares(*(m + (0 if was_away else _LEAVE_ERRORS * math.sqrt(m * (1 - m) / images)) for m in most))


def _scales(reference: Reference, source: SourceStatistics) -> Tensor:
    """Return how far the images of each class (K,) usually are, over how far all are; 1 without a memory.

    Some classes are farther than others; a stream that shows one class after the other would look like drift.
    """
    scales = torch.ones_like(source.histogram)
    if "memory" not in reference.parts:
        return scales
    memory = reference.part("memory")
    distances = mahalanobis(memory["features"], source.feature_mean, source.feature_precision)
    usual = distances.median()
    for label in range(len(scales)):
        own = distances[memory["labels"] == label]
        if len(own):
            scales[label] = (len(own) * own.median() / usual + _PRIOR_ROWS) / (len(own) + _PRIOR_ROWS)
    return scales
