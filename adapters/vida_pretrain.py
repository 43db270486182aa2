"""Train ViDA's adapters on labelled source images, as the method expects them to be before it adapts.

Source: Liu et al., ICLR 2024, arXiv:2306.04344, section 3.2; the authors did not release this part.
Differs: the network stays frozen, and a few passes over the images have to do.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tta_server.adapters.low_rank import KINDS, fold
from tta_server.models import Backbone, Tensors

STEPS, BATCH = 48, 64
_LR = 1e-3


def pretrain(backbone: Backbone, drawn: Tensors, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return adapters that lower the cross entropy of the source images, with scales of 1 and the stored statistics.

    Args:
        backbone: The network.
        drawn: The adapters to begin with, from `adapters.low_rank.draw`.
        batches: Images (N, C, H, W) in [0, 1] and their classes (N,), on the network's device; one step for each.

    Returns:
        Tensors named as those drawn.

    Raises:
        ValueError: If training diverges, or the network keeps gradients from them.
    """
    trained = {name: tensor.clone().requires_grad_() for name, tensor in drawn.items()}
    optimizer = torch.optim.Adam(trained.values(), lr=_LR)
    scales = {kind: torch.ones((), device=backbone.device) for kind in KINDS}
    for x, labels in batches:
        loss = cross_entropy(backbone.forward(x, fold(backbone, trained, scales)).logits, labels)
        if not loss.requires_grad:
            raise ValueError("no gradient of what the network says reaches ViDA's adapters")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if not all(tensor.isfinite().all() for tensor in trained.values()):
        raise ValueError("training ViDA's adapters on these images diverged; leave them out")
    return {name: tensor.detach() for name, tensor in trained.items()}
