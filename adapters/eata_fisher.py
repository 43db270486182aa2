"""Fisher weights: how much the source answers depend on each scale and shift.

Source: Niu et al., ICML 2022, arXiv:2204.02610, equation 9. Reference: EATA/main.py. It squares the gradient of a
batch's mean loss, so the weights shrink as batches grow: the paper's penalty of 2000 belongs to batches of 64.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tta_server.models import Backbone

BATCH, IMAGES = 64, 2000


def fisher(backbone: Backbone, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the mean over batches of the squared gradient of the cross entropy to the network's own answers.

    The network normalises by batch statistics, as it will when it adapts; labels are not used.

    Args:
        backbone: The network.
        batches: Images (N, C, H, W) in [0, 1] on its device, N >= 2, in an order that mixes the classes.

    Returns:
        For each tensor of `norm_affine` one of its shape, >= 0.

    Raises:
        ValueError: If there is no batch.
    """
    theta = {name: tensor.detach().clone().requires_grad_() for name, tensor in backbone.norm_affine().items()}
    sums = {name: torch.zeros_like(tensor) for name, tensor in theta.items()}
    count = 0
    for x in batches:
        logits = backbone.forward(x, theta, "batch").logits
        loss = cross_entropy(logits, logits.detach().argmax(1))
        gradients = torch.autograd.grad(loss, list(theta.values()))
        sums = {name: sums[name] + g.square() for name, g in zip(theta, gradients, strict=True)}
        count += 1
    if not count:
        raise ValueError("the Fisher weights need at least one batch of images, got none")
    return {name: total.detach() / count for name, total in sums.items()}
