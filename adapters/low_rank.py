"""Low- and high-rank adapters of a network's weights, folded into them for the time of a call.

Source: Hu et al., ICLR 2022, arXiv:2106.09685, section 4.1; Liu et al., ICLR 2024, arXiv:2306.04344, equations 1 and 2.
Reference: vida/cifar/inject_vida.py.
Differs: a convolution has them too; its weight counts as a matrix of out x (in * height * width).
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from tta_server.models import Backbone, Tensors

KINDS = ("low", "high")
_MIN_SIDE = 16  # a smaller convolution, a depthwise one for instance, has nothing that a low rank could leave out


def layers(backbone: Backbone, targets: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the weights that adapters fit, by the names of their layers.

    Args:
        backbone: The network.
        targets: Patterns of layer names, such as "*.attn.*". None are all Linear layers but the head and all
            convolutions with at least 16 outputs and as many inputs, kernel included.

    Raises:
        ValueError: If there are none.
    """
    head = (backbone.spec.classes, backbone.spec.features)
    found = {}
    for name, weight in backbone.weights().items():
        fits = weight.dim() == 2 or (weight.dim() > 2 and min(weight.flatten(1).shape) >= _MIN_SIDE)
        if fits and name.endswith("weight"):
            found[name.removesuffix(".weight")] = weight
    if targets:
        found = {n: w for n, w in found.items() if any(fnmatchcase(n, target) for target in targets)}
    else:
        heads = [name for name, weight in found.items() if weight.shape == head]
        found.pop(heads[-1] if heads else "", None)
    if not found:
        raise ValueError(
            f"backbone '{backbone.spec.name}' has no layer for adapters among {list(targets) or 'its own'}"
        )
    return found


def draw(weights: Tensors, ranks: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
    """Return adapters that change nothing: U = 0 and D ~ N(0, 1 / r^2).

    Args:
        weights: From `layers`.
        ranks: Of the low- and the high-rank adapters; a layer has no more than its own rank.
        generator: On the CPU.

    Returns:
        `<layer>.<kind>_up` (out, r) and `<layer>.<kind>_down` (r, in) for the kinds "low" and "high".
    """
    made = {}
    for layer, weight in weights.items():
        rows, columns = weight.flatten(1).shape
        for kind, wanted in zip(KINDS, ranks, strict=True):
            rank = min(wanted, rows, columns)
            made[f"{layer}.{kind}_up"] = weight.new_zeros(rows, rank)
            made[f"{layer}.{kind}_down"] = (torch.randn(rank, columns, generator=generator) / rank).to(weight)
    return made


def fold(backbone: Backbone, tensors: Tensors, scales: Tensors) -> dict[str, Tensor]:
    """Return the overrides that run `backbone` with adapters: W + s_low U_low D_low + s_high U_high D_high.

    Args:
        backbone: The network.
        tensors: Adapters named as by `draw`; beside them, parameters of the network to use instead of its own.
        scales: s of each kind, 0-d.
    """
    weights = backbone.weights()
    overrides = {name: tensor for name, tensor in tensors.items() if name in weights}
    for layer in [name.removesuffix(".low_up") for name in tensors if name.endswith(".low_up")]:
        name = f"{layer}.weight" if f"{layer}.weight" in weights else layer
        weight = overrides.get(name, weights[name])
        for kind in KINDS:
            change = scales[kind] * (tensors[f"{layer}.{kind}_up"] @ tensors[f"{layer}.{kind}_down"])
            weight = weight + change.view_as(weight)
        overrides[name] = weight
    return overrides
