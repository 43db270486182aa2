"""Losses that need no label."""

import torch
from torch import Tensor


def entropy(logits: Tensor, shares: Tensor | None = None) -> Tensor:
    """Return the softmax entropy of each row.

    Args:
        logits: Unnormalised scores (N, K), K >= 2, any float type.
        shares: Their softmax (N, K), if it is there already.

    Returns:
        Entropy in nats (N,), in [0, log K].

    Raises:
        ValueError: If `logits` is not two-dimensional.
    """
    if logits.dim() != 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, expected (N, K)")
    shares = logits.softmax(1) if shares is None else shares
    return -(shares * torch.log_softmax(logits, 1)).sum(1)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return labels (...) as int64 rows (..., K); unlike torch's, it asks the device nothing."""
    return (labels[..., None] == torch.arange(classes, device=labels.device)).to(torch.int64)


def log_probabilities(shares: Tensor) -> Tensor:
    """Return logits (N, K), finite, whose softmax are the `shares` (N, K) of each row, >= 0, over their sum."""
    # In float32 a softmax makes exactly 0 of the least, so that a share of 0 is one again.
    return shares.log().clamp(min=-200)


def soft_likelihood_ratio(logits: Tensor) -> Tensor:
    """Return the soft likelihood ratio loss of each row; Marsden et al. 2024, arXiv:2306.00650.

    Unlike the entropy's, its gradient does not vanish for sure predictions; probabilities are cut at 0.99.

    Args:
        logits: Unnormalised scores (N, K).

    Returns:
        Losses (N,).
    """
    p = logits.softmax(1).clamp(0, 0.99)
    return -(p * torch.log(p / (1 - p) + 1e-5)).sum(1)


def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """Return the cross entropy of each row (N,) between two sets of logits (N, K), the softmax of `target` first."""
    return -(target.softmax(1) * torch.log_softmax(logits, 1)).sum(1)


def symmetric_cross_entropy(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean of both directions of `cross_entropy` for each row (N,)."""
    return 0.5 * (cross_entropy(one, other) + cross_entropy(other, one))
