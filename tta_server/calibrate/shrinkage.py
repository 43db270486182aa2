"""The Gaussian of source features: a shrunk covariance, and distances that are not flattered by the fit.

Source: Ledoit and Wolf, Journal of Multivariate Analysis 88 (2004), equations 5 to 14.
"""

import torch
from torch import Tensor

from tta_server.drift.scores import mahalanobis

FOLDS = 5


def gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the precision (D, D) of features (N, D), in float64.

    Raises:
        ValueError: If the features do not vary.
    """
    features = features.double()
    covariance, _ = ledoit_wolf(features)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        raise ValueError(f"the features of these {len(features)} images do not vary; is the network trained?")
    return features.mean(0), torch.cholesky_inverse(factor)


def ledoit_wolf(features: Tensor) -> tuple[Tensor, float]:
    """Return the covariance (D, D) shrunk towards a multiple of the identity, and how far it was, in [0, 1].

    With the sample covariance S of N centred rows x and m = trace(S) / D, the shrinkage is b / d, where d is
    ||S - m I||^2 and b is sum ||x x' - S||^2 / N^2, at most d.

    Args:
        features: (N, D).
    """
    count, width = features.shape
    centred = features - features.mean(0)
    sample = centred.T @ centred / count
    scale = sample.trace() / width
    target = scale * torch.eye(width, dtype=features.dtype, device=features.device)
    # ||x x' - S||^2 summed over rows is the sum of |x|^4 less N ||S||^2.
    spread = (centred.square().sum(1).square().sum() - count * sample.square().sum()) / count**2
    distance = (sample - target).square().sum()
    shrinkage = float((spread / distance).clamp(0, 1)) if distance > 0 else 1.0
    return torch.lerp(sample, target, shrinkage), shrinkage


def held_out_distances(features: Tensor) -> Tensor:
    """Return each row's Mahalanobis distance (N,) from a Gaussian that was fitted on the other folds.

    Distances of the rows that a covariance was fitted on are too small, by much where D is near N, so that images
    without any drift would look far away.

    Args:
        features: (N, D), in an order that does not depend on the class.
    """
    features = features.double()
    distances = torch.empty(len(features), dtype=features.dtype, device=features.device)
    fold_of = torch.arange(len(features), device=features.device) % FOLDS
    for fold in range(FOLDS):
        held_out = fold_of == fold
        distances[held_out] = mahalanobis(features[held_out], *gaussian(features[~held_out]))
    return distances
