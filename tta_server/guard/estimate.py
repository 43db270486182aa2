"""How a model, the adapted or the frozen one, does on images without labels: how many it is lost on, how many it reads.

A model is lost on an image whose features lie farther from the source's than those of nearly all source images do.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tta_server.guard.drift import LEVELS, SourceStatistics, mahalanobis
from tta_server.models import Output, Reference

PARTS = frozenset({"features", "confidence", "energy", "histogram"})
"""What a reference bundle must have."""

_LOST = 0.95  # quantile of the source's distances
_PRIOR_ROWS = 8  # a class's own scale of distances counts half when that many of its features are remembered


class Estimate(NamedTuple):
    """What a model makes of a window.

    Attributes:
        lost: Share of images whose features lie beyond nearly all of the source's.
        accuracy: Share of images that are answered with enough confidence and are not lost: an estimate.
    """

    lost: float
    accuracy: float


class Estimator:
    """The source data as the frozen model sees them."""

    def __init__(self, reference: Reference) -> None:
        """Take what is needed from the bundle.

        Raises:
            ValueError: If it lacks one of `PARTS`.
        """
        self._source = SourceStatistics.of(reference)
        self._lost = reference.part("features")["distance_quantiles"][LEVELS.index(_LOST)]
        self._scale = _scales(reference, self._source)
        threshold = self._source.atc_threshold
        self._sure = self._source.confidence_floor if threshold is None else threshold

    def of(self, output: Output) -> Estimate:
        """Return what a model makes of a window (N images).

        The confidence alone, as in Garg et al., ICLR 2022, arXiv:2201.04234, says that a frozen model under noise is
        nearly always right.
        """
        lost = self._distances(output) > self._lost
        confident = output.logits.softmax(1).amax(1) >= self._sure
        return Estimate(*torch.stack([lost, confident & ~lost]).double().mean(1).tolist())

    def _distances(self, output: Output) -> Tensor:
        distances = mahalanobis(output.features, self._source.feature_mean, self._source.feature_precision)
        return distances / self._scale[output.logits.argmax(1)]


def _scales(reference: Reference, source: SourceStatistics) -> Tensor:
    """Return how far the images of each class (K,) usually are, over how far all are; 1 without a memory.

    Some classes are farther than others; a stream that shows one class after the other would look lost.
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
