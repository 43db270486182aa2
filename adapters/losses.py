"""Losses that need no label."""

import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """Return the softmax entropy of each row.

    Args:
        logits: Unnormalised scores (N, K), K >= 2, any float type.

    Returns:
        Entropy in nats (N,), in [0, log K].

    Raises:
        ValueError: If `logits` is not two-dimensional.
    """
    if logits.dim() != 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, expected (N, K)")
    return -(logits.softmax(1) * torch.log_softmax(logits, 1)).sum(1)
