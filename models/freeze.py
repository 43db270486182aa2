"""A copy of a network that nobody else has, in evaluation mode."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tta_server.models.affine_norm import own_parameters
from tta_server.models.reason import reason


def freeze(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of `module` in evaluation mode, without gradients, whose norms share no tensor with each other.

    Norms that are tied in training are equal when they are frozen; apart, each can follow its own statistics.

    Raises:
        ValueError: If the network cannot be copied.
    """
    try:
        frozen = copy.deepcopy(module, dict(_computed(module))).to(device).eval().requires_grad_(False)
    except Exception as error:  # a network may hold anything
        raise ValueError(
            f"network {type(module).__name__} cannot be copied ({reason(error)}); keep what is not a tensor out of it"
        ) from error
    _untie(frozen)
    return frozen


def _computed(module: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """Give what `deepcopy` refuses, copied: tensors that were computed from parameters, as weight norm keeps them."""
    for layer in module.modules():
        for value in vars(layer).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                yield id(value), value.detach().clone()


def _untie(module: nn.Module) -> None:
    seen: set[int] = set()
    for layer in module.modules():
        for name, parameter in own_parameters(layer).items():
            if id(parameter) in seen:
                setattr(layer, name, nn.Parameter(parameter.clone(), requires_grad=False))
            seen.add(id(parameter))
        if hasattr(layer, "running_mean"):
            for name, buffer in layer.named_buffers(recurse=False):
                if id(buffer) in seen:
                    setattr(layer, name, buffer.clone())
                seen.add(id(buffer))
