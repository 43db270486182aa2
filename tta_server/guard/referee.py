"""Which of two models is right where they differ: what a stream answers, or what the frozen model does. No labels.

An answer is credible if it is sure, and given from features among which source images lie: confidence alone says that a
frozen model under noise is nearly always right, and features alone that a model whose statistics are of one class is.
What both models say alike decides nothing, however good or bad it is; so an input that is hard for both favours none.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tta_server.drift.scores import LEVELS, SourceStatistics, mahalanobis
from tta_server.models import Output, Reference

PARTS = frozenset({"features", "confidence", "energy", "histogram"})
"""What a reference bundle must have."""

_LOST = 0.95  # quantile of the source's distances
_PRIOR_ROWS = 8  # a class's own scale of distances counts half when that many of its features are remembered


class Score(NamedTuple):
    """Of the images that two models answer differently.

    Attributes:
        stream: On how many the stream's answer is credible.
        frozen: On how many the frozen model's is.
        differ: How many they are.
    """

    stream: float
    frozen: float
    differ: float


class Referee:
    """Tells credible answers by what the frozen model makes of the source data."""

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

    def score(self, answered: Output, frozen: Output) -> Score:
        """Return how the models stand on a window (N images)."""
        differ = answered.logits.argmax(1) != frozen.logits.argmax(1)
        own = self.credible(answered)
        if torch.equal(answered.features, frozen.features):
            # The same features under another label: a method that only relabels is no surer than the network is of it.
            own &= frozen.logits.softmax(1).gather(1, answered.logits.argmax(1)[:, None])[:, 0] >= self._sure
        counted = torch.stack([own & differ, self.credible(frozen) & differ, differ])
        return Score(*counted.sum(1).double().tolist())

    def credible(self, output: Output) -> Tensor:
        """Say of each answer (N,) whether it is sure and not given from features where no source image lies.

        How sure the frozen model must be is chosen as in Garg et al., ICLR 2022, arXiv:2201.04234.
        """
        distances = mahalanobis(output.features, self._source.feature_mean, self._source.feature_precision)
        near = distances / self._scale[output.logits.argmax(1)] <= self._lost
        return near & (output.logits.softmax(1).amax(1) >= self._sure)


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
