"""Variety: of the pictures in a window, and of the answers to recent windows."""

import math

import torch
from torch import Tensor

_VARIED = 0.55

ALIKE = 0.02
"""Two images show the same picture if their mean squared difference is below this share of their own variances."""


def distinct(x: Tensor) -> int:
    """Return how many different pictures a window shows; near copies of an earlier image do not count.

    Args:
        x: Images (N, C, H, W), finite.
    """
    flat = x.flatten(1).double()
    variance = flat.var(1, correction=0)
    squares = flat.square().mean(1)
    difference = squares[:, None] + squares - 2 * (flat @ flat.T) / flat.shape[1]
    copies = difference <= ALIKE * (variance[:, None] + variance)
    return len(x) - int(copies.tril(-1).any(1).sum())


def enough(images: int) -> int:
    """Return how many different pictures a window of so many images must show."""
    return max(2, min(16, images // 2))


def diversity(shares: Tensor) -> float:
    """Return the entropy of a distribution over K classes (K,) over ln K: 1 if all are alike, 0 if there is one."""
    return float(torch.special.entr(shares.double()).sum()) / math.log(len(shares))


def varied(said: Tensor, classes: int) -> bool:
    """Say whether what is said of images (N,) is of many classes: 0.55 of the entropy that so many could have."""
    shares = said.bincount(minlength=classes).double() / max(1, len(said))
    return float(torch.special.entr(shares).sum()) >= _VARIED * math.log(max(2, min(len(said), classes)))
