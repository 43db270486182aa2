"""The gradient of a loss: of one stream, or of each of many streams under one `vmap`.

`torch.func.grad` gives the same there. But it also records what a second derivative would need, and imports torch's
compiler, which takes 160 MB and seconds. Under `vmap` alone, the tensors beneath know of ordinary autograd, and streams
share no parameter: the gradient of the sum of their losses is each stream's own.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from tta_server.models.backbone import Tensors

Aux = TypeVar("Aux")


def differentiate(
    loss: Callable[[Tensors], tuple[Tensor, Aux]], theta: Tensors
) -> tuple[dict[str, Tensor], Tensor, Aux]:
    """Return the gradients of a loss by `theta`, the loss, and what came with it; none of them has a gradient.

    Args:
        loss: From parameters to a 0-d loss that depends on one of them, and what else the forward gave.
        theta: The parameters; under `vmap`, those of each stream.

    Raises:
        RuntimeError: If streams under `vmap` share a parameter, the loss depends on none, or `torch.inference_mode` is
            on.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("torch.inference_mode rules out gradients, by which this learns; call it outside")
    stacked = torch._C._are_functorch_transforms_active()
    with torch.enable_grad():
        leaves = {name: _Leaf.apply(tensor) if stacked else _leaf(tensor) for name, tensor in theta.items()}
        value, aux = loss(leaves)
        slopes = _Slopes.apply(value, *leaves.values()) if stacked else _slopes(value, *leaves.values())
    return dict(zip(leaves, slopes, strict=True)), value.detach(), _detached(aux)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _slopes(value: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    if not value.requires_grad:
        raise RuntimeError("no gradient of what the network says reaches what would be learnt")
    return torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)


class _Leaf(torch.autograd.Function):
    """`_leaf` of the tensor of all streams."""

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        raise RuntimeError("streams that learn under one vmap must have parameters of their own")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], tensor: Tensor) -> tuple[Tensor, int]:  # noqa: ANN401
        return _leaf(tensor.movedim(in_dims[0], 0)), 0


class _Slopes(torch.autograd.Function):
    """`_slopes` of the losses of all streams."""

    @staticmethod
    def forward(value: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError("only the tensors of vmap have gradients here")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], value: Tensor, *leaves: Tensor) -> Any:  # noqa: ANN401
        found = _slopes(value.sum(), *leaves)
        return found, (0,) * len(found)


def _detached(aux: Any) -> Any:  # noqa: ANN401
    """Return tensors in any nesting of tuples and mappings, without gradient."""
    if isinstance(aux, Mapping):
        return {name: _detached(part) for name, part in aux.items()}
    if isinstance(aux, tuple):
        parts = map(_detached, aux)
        return type(aux)(*parts) if hasattr(aux, "_fields") else tuple(parts)
    return aux.detach()
