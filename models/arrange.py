"""Of what type a network's numbers are and in which order they lie, as far as that can be changed."""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from tta_server.models.affine_norm import has_statistics, is_norm

MemoryFormat = Literal["contiguous", "channels_last"]
"""Whether each channel of a map is one piece of memory, or each of its places. On it depend speed and rounding."""

NumberType = Literal["float32", "bfloat16", "float16"]


def convert(module: nn.Module, kind: torch.dtype) -> None:
    """Bring a network to a type of numbers, in place.

    Normalisation layers stay in float32 where it is a shorter one: a step of 1e-3 from 1 would be none there.

    Args:
        module: The network, in evaluation mode or not.
        kind: The type of all floating-point tensors beside those of normalisation layers.

    Raises:
        ValueError: If it has no weights, as the classifier in a file has none.
    """
    if not any(tensor.is_floating_point() for tensor in module.parameters()):
        raise ValueError("it holds no weights that can be converted; leave model.dtype empty")
    for layer in module.modules():
        norm = is_norm(layer)
        own = torch.float32 if norm and kind.itemsize < 4 else kind
        for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(own)
        # BatchNorm is replaced by a layer that takes both types; others are not made for it on every device.
        if norm and own != kind and (isinstance(layer, _InstanceNorm) or not has_statistics(layer)):
            layer.register_forward_pre_hook(_widen)
            layer.register_forward_hook(partial(_narrow, kind))


def channels_last(module: nn.Module) -> bool:
    """Return whether the weights of a network's convolutions lie place by place."""
    return any(
        tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
        for tensor in module.parameters()
    )


def lay_channels_last(tensor: Tensor) -> Tensor:
    """Return maps or weights (N, C, H, W) place by place; a tensor of other dimensions as it is."""
    # Not by `memory_format`, which knows no `vmap`.
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if tensor.dim() == 4 else tensor


def _widen(_layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg.float() if isinstance(arg, Tensor) else arg for arg in args)


def _narrow(kind: torch.dtype, _layer: nn.Module, _args: object, made: Tensor) -> Tensor:
    return made.to(kind)
