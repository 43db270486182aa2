"""Drift scores: how far a window of images is from the source data, as pure functions of tensors.

No score has a fixed threshold: `tta-server calibrate` draws windows without drift and keeps the quantiles of each, per
size of the window. Everything stays on the device; nothing makes the host wait.

Source: Liu et al., NeurIPS 2020, arXiv:2010.03759 (energy); Lee et al., NeurIPS 2018, arXiv:1807.03888 (Mahalanobis);
Garg et al., ICLR 2022, arXiv:2201.04234 (ATC); Guillory et al., ICCV 2021, arXiv:2107.03315 (DoC).
Differs: one Gaussian for the features of all classes, so that no label is needed; W2 of a layer is given in source
standard deviations, so that layers compare; from three scores is taken what the predicted classes explain of them, so
that other classes are not taken for other images.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from tta_server.adapters.losses import entropy
from tta_server.models import Reference, Tensors
from tta_server.telemetry.closed_sets import JudgedScore

LEVELS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""The quantiles that a reference bundle keeps; on both sides, because some scores fall under drift."""

CLASSES: Final = "classes"
"""The part of a bundle that says what classes explain."""

EXPLAINED: Final[tuple[JudgedScore, ...]] = ("entropy_ratio", "energy_shift_sigmas", "feature_distance_ratio")
"""The scores from which what the predicted classes explain is taken."""

_NEAR = 1.5
"""How far the features of an answer that may be right lie at most, over what 1 % of source images exceed."""

_NORM_EPS = 1e-5  # what BatchNorm adds to a variance; a dead channel then has a finite divergence


class ImageScores(NamedTuple):
    """What the scores need of each of N images; stacked windows have more dimensions in front.

    Attributes:
        entropy_ratio: Entropy of the prediction over ln K, in [0, 1] (..., N).
        confidence: Largest probability, in [1/K, 1] (..., N).
        energy: Free energy -logsumexp(logits), in nats (..., N).
        predicted: Most likely class, int64 (..., N).
        distance: Mahalanobis distance of the features from the source's (..., N).
    """

    entropy_ratio: Tensor
    confidence: Tensor
    energy: Tensor
    predicted: Tensor
    distance: Tensor


@dataclass(frozen=True)
class SourceStatistics:
    """What the scores need of the source data; 0-d tensors where no shape is named, the last two None without labels.

    Attributes:
        histogram: Share of each class among the predictions (K,).
        feature_mean: (D,).
        feature_precision: Inverse of the shrunk covariance (D, D).
        distance_mean: Mean Mahalanobis distance of images that the covariance was not fitted on.
        distance_ceiling: 99 % quantile of those distances.
        confidence_mean: Mean largest probability.
        confidence_floor: 5 % quantile of the largest probability.
        energy_mean: In nats.
        energy_std: In nats.
        class_offsets: What the predicted class adds to the scores `EXPLAINED` (K, 3).
        class_doubts: Variance of that, as so few images of the class tell it (K, 3).
        atc_threshold: Confidence below which a share of the images lies that equals the error.
        accuracy: Of the source model on the source data, in [0, 1].
    """

    histogram: Tensor
    feature_mean: Tensor
    feature_precision: Tensor
    distance_mean: Tensor
    distance_ceiling: Tensor
    confidence_mean: Tensor
    confidence_floor: Tensor
    energy_mean: Tensor
    energy_std: Tensor
    class_offsets: Tensor
    class_doubts: Tensor
    atc_threshold: Tensor | None
    accuracy: Tensor | None

    @classmethod
    def of(cls, reference: Reference) -> "SourceStatistics":
        """Return the numbers of a reference bundle; of one from before classes were told apart, they explain nothing.

        Raises:
            ValueError: If the bundle lacks a part that the scores need.
        """
        features, confidence, free = (reference.part(name) for name in ("features", "confidence", "energy"))
        accuracy = reference.about.get("accuracy")
        histogram = reference.part("histogram")["classes"]
        nothing = histogram.new_zeros(len(histogram), len(EXPLAINED))
        classes = reference.part(CLASSES) if CLASSES in reference.parts else {}
        return cls(
            histogram=histogram,
            feature_mean=features["mean"],
            feature_precision=features["precision"],
            distance_mean=features["distance_mean"],
            distance_ceiling=features["distance_quantiles"][LEVELS.index(0.99)],
            confidence_mean=confidence["mean"],
            confidence_floor=confidence["quantiles"][LEVELS.index(0.05)],
            energy_mean=free["mean"],
            energy_std=free["std"],
            class_offsets=classes.get("offsets", nothing),
            class_doubts=classes.get("doubts", nothing),
            atc_threshold=reference.part("atc")["threshold"] if "atc" in reference.parts else None,
            accuracy=torch.full_like(confidence["mean"], accuracy) if accuracy is not None else None,
        )


class Yardstick(NamedTuple):
    """What answers of the frozen model are measured by as they are made, in as few calls as can be.

    Attributes:
        root: Times its own transpose, the precision of the source's features (D, D).
        shift: Their mean, times the root (D,).
    """

    root: Tensor
    shift: Tensor

    @classmethod
    def of(cls, source: SourceStatistics) -> "Yardstick":
        """Return that of the source."""
        variances, axes = torch.linalg.eigh(source.feature_precision.double())
        root = axes * variances.clamp(min=0).sqrt()
        shift = source.feature_mean.double() @ root
        return cls(root.to(source.feature_mean), shift.to(source.feature_mean))

    def measure(self, logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the greatest of the logits (N, K) and `mahalanobis` of the features (N, D).

        The free energy is the logarithm of the answer's probability minus the greatest logit.

        Returns:
            Both (N, 1).
        """
        apart = torch.addmm(self.shift, features, self.root, beta=-1)
        return logits.amax(1, keepdim=True), torch.linalg.vector_norm(apart, dim=1, keepdim=True)


def image_scores(logits: Tensor, features: Tensor, source: SourceStatistics) -> ImageScores:
    """Return what the scores need of each image.

    Args:
        logits: Of the source model (N, K).
        features: Input of its head (N, D).
        source: Where the features are measured from.
    """
    distance = mahalanobis(features, source.feature_mean, source.feature_precision)
    confidence, predicted = logits.softmax(1).max(1)
    ratio = entropy(logits) / math.log(logits.shape[1])
    return ImageScores(ratio, confidence, energy(logits), predicted, distance)


def window_scores(window: ImageScores, source: SourceStatistics) -> dict[str, Tensor]:
    """Return every score that needs only the answers to a window, and, with labels, estimates of their accuracy.

    By confidence alone (`atc_accuracy`) most networks read noise nearly always right, but then their features lie where
    those of no source image do: `estimated_accuracy` counts answers that are as sure, and not from far away. Estimates
    hold for the frozen source model. An adapter that collapses makes its own answers sure, so on them all of them may
    rise while the accuracy falls.

    From the scores `EXPLAINED` is taken what source images that are read as these classes have of them more than
    others, so that a window of one class has what one of all classes has.

    Args:
        window: N images each (..., N).
        source: What they are compared with.

    Returns:
        Score to value (...): `entropy_ratio`, `confidence`, `low_confidence_share`, `energy_shift_sigmas`,
        `prediction_divergence_ratio`, `feature_distance_ratio`, `far_feature_share`, `atc_accuracy`, `doc_accuracy`,
        `estimated_accuracy`.
    """
    confidence = window.confidence.mean(-1)
    predicted = class_shares(window.predicted, len(source.histogram))
    explained = predicted @ source.class_offsets
    scores = {
        name: values.mean(-1) - explained[..., place]
        for place, (name, values) in enumerate(explainable(window, source).items())
    }
    scores |= {
        "confidence": confidence,
        "low_confidence_share": _share(window.confidence < source.confidence_floor),
        "prediction_divergence_ratio": divergence(predicted, source.histogram),
        "far_feature_share": _share(window.distance > source.distance_ceiling),
    }
    if source.atc_threshold is not None and source.accuracy is not None:
        sure, near = window.confidence >= source.atc_threshold, window.distance <= _NEAR * source.distance_ceiling
        scores["atc_accuracy"], scores["estimated_accuracy"] = _share(sure), _share(sure & near)
        scores["doc_accuracy"] = (source.accuracy - (source.confidence_mean - confidence)).clamp(0, 1)
    return scores


def explainable(window: ImageScores, source: SourceStatistics) -> dict[str, Tensor]:
    """Return the scores `EXPLAINED` of each image, with what its class explains of them, (..., N) each."""
    return {
        "entropy_ratio": window.entropy_ratio,
        "energy_shift_sigmas": (window.energy - source.energy_mean) / source.energy_std,
        "feature_distance_ratio": window.distance / source.distance_mean,
    }


def norm_scores(moments: Tensors, stats: Tensors) -> dict[str, Tensor]:
    """Return how far the normalisation layers' inputs are from the source's, over all layers.

    Args:
        moments: What a forward with batch statistics reported of a window.
        stats: The source statistics, as `Backbone.norm_stats` gives them.

    Returns:
        `norm_w2_mean`, `norm_w2_max` (source standard deviations), `norm_kl_mean`, `norm_kl_max` (nats), each 0-d;
        empty for a network without BatchNorm.
    """
    shifts = layer_shifts(moments, stats)
    if not shifts:
        return {}
    w2, kl = (torch.stack(values) for values in zip(*shifts.values(), strict=True))
    return {"norm_w2_mean": w2.mean(), "norm_w2_max": w2.amax(), "norm_kl_mean": kl.mean(), "norm_kl_max": kl.amax()}


def layer_shifts(moments: Tensors, stats: Tensors) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for each BatchNorm layer how far the window's channels are from the source's, as Gaussians.

    The first number is the Wasserstein-2 distance between the two, each with independent channels, over the source's
    standard deviation: sqrt(mean of (m - m_s)^2 + (s - s_s)^2, over mean of s_s^2). It grows with a shift's size and
    suits alarms. The second is the symmetric Kullback-Leibler divergence in nats, a mean over channels of
    ((v + d)/v_s + (v_s + d)/v)/2 - 1 with d = (m - m_s)^2, which has no bound where a variance vanishes.

    Args:
        moments: What a forward with batch statistics reported of a window.
        stats: The source statistics; a layer that the forward did not reach is left out.

    Returns:
        Path of the layer to both numbers, 0-d and >= 0.
    """
    shifts = {}
    for name in stats:
        layer, _, kind = name.rpartition(".")
        if kind == "running_mean" and name in moments:
            gap = (moments[name] - stats[name]).square()
            var = moments[f"{layer}.running_var"] + _NORM_EPS
            source_var = stats[f"{layer}.running_var"] + _NORM_EPS
            squared = gap + (var.sqrt() - source_var.sqrt()).square()
            both = ((var + gap) / source_var + (source_var + gap) / var) / 2 - 1
            shifts[layer] = ((squared.mean() / source_var.mean()).sqrt(), both.mean().clamp(min=0))
    return shifts


def energy(logits: Tensor) -> Tensor:
    """Return the free energy -logsumexp of logits (N, K) in nats (N,); high for inputs unlike the source's."""
    return -logits.logsumexp(1)


def mahalanobis(features: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """Return the distances (N,) of features (N, D) from a Gaussian with that mean (D,) and precision (D, D)."""
    centred = features - mean
    return ((centred @ precision) * centred).sum(-1).clamp(min=0).sqrt()


def class_shares(predicted: Tensor, classes: int) -> Tensor:
    """Return the share of each of K classes (..., K) among predictions (..., N)."""
    counts = torch.zeros(*predicted.shape[:-1], classes, device=predicted.device)
    return counts.scatter_add(-1, predicted, torch.ones_like(predicted, dtype=counts.dtype)) / predicted.shape[-1]


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence to base 2 (...), in [0, 1], of two histograms (..., K) that sum to 1."""
    both, *own = (torch.special.entr(shares).sum(-1) for shares in ((one + other) / 2, one, other))
    nats: Tensor = both - (own[0] + own[1]) / 2
    return (nats / math.log(2)).clamp(0, 1)


def atc_threshold(confidence: Tensor, correct: Tensor) -> Tensor:
    """Return the confidence (0-d) below which a share of the images lies that equals the error.

    Args:
        confidence: Of N labelled source images (N,).
        correct: Whether each was right, bool (N,).
    """
    wrong = int((~correct).sum())
    above = torch.cat([confidence.sort().values, confidence.new_full((1,), torch.inf)])
    return above[wrong]


def _share(flags: Tensor) -> Tensor:
    return flags.float().mean(-1)
