"""Means and variances of what several sets of images have together."""

import torch
from torch import Tensor

from tta_server.models.backbone import Tensors


def pool(stored: Tensors, moments: Tensors, share: Tensor) -> dict[str, Tensor]:
    """Return statistics of images of which a `share` has the moments given, by the law of total variance.

    Args:
        stored: `<layer>.running_mean` and `.running_var` (C,).
        moments: The same of other images (C,), or (S, C) for S streams; a layer that is not there keeps its own.
        share: In [0, 1], 0-d.
    """
    pooled = dict(stored)
    for mean in (name for name in stored if name.endswith(".running_mean") and name in moments):
        var, part = f"{mean.removesuffix('mean')}var", share.to(stored[mean])
        between = part * (1 - part) * (moments[mean] - stored[mean]).square()
        pooled[mean] = torch.lerp(stored[mean], moments[mean], part)
        pooled[var] = torch.lerp(stored[var], moments[var], part) + between
    return pooled
