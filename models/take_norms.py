"""Have the BatchNorm layers of a network be `StreamNorm` where it answers then as it did.

A layer may do more than its kind says: a hook on it, a subclass, a network that reads what only a BatchNorm has.
"""

import torch
from torch import Tensor, nn

from tta_server.models.freeze import tensors
from tta_server.models.logits import tensors_in
from tta_server.models.norm import NormCall, StreamNorm, is_batch_norm, replace_batch_norm
from tta_server.models.own_state import put_back, take

_ROUNDING, _ROUNDING_OF_HALF = 1e-4, 0.05  # of the largest number


def take_norms(module: nn.Module, call: NormCall, given: Tensor) -> tuple[list[str], list[str]]:
    """Replace every BatchNorm in `module`, in place, or none if the network would answer otherwise.

    Args:
        module: The network, frozen.
        call: Shared by what takes their places.
        given: What to try it with, as the network takes it.

    Returns:
        As `replace_batch_norm`.
    """
    if not any(map(is_batch_norm, module.modules())):
        return [], []
    coarse = any(tensor.is_floating_point() and tensor.itemsize < 4 for tensor in (given, *tensors(module).values()))
    rounding = _ROUNDING_OF_HALF if coarse else _ROUNDING
    call.rows = len(given)
    first = _said(module, given)
    before = list(module.named_modules(remove_duplicate=False))
    replaced, left = replace_batch_norm(module, call)
    if not replaced or first is None or _alike(first, now := _said(module, given), rounding):
        return replaced, left
    if now is not None and not _alike(now, _said(module, given), rounding):
        return replaced, left  # it says something else each time
    taken = {name for name, layer in module.named_modules(remove_duplicate=False) if isinstance(layer, StreamNorm)}
    for name, layer in before:
        if name in taken:
            parent, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(parent), attribute, layer)
    return [], [*replaced, *left]


def _said(module: nn.Module, given: Tensor) -> list[Tensor] | None:
    """Return what a network says, and leave it as it was; None if it raises something."""
    before, cuda = take(module), [given.device] if given.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(cuda), torch.no_grad():
            return [tensor for _, tensor in tensors_in(module(given))]
    except Exception:  # a network raises whatever it likes
        return None
    finally:
        put_back(module, before)


def _alike(first: list[Tensor] | None, other: list[Tensor] | None, rounding: float) -> bool:
    if first is None or other is None or len(first) != len(other):
        return False
    return all(_close(one, another, rounding) for one, another in zip(first, other, strict=True))


def _close(first: Tensor, other: Tensor, rounding: float) -> bool:
    scale = float(first.nan_to_num(0, 0, 0).abs().max()) if first.numel() else 0.0
    return first.shape == other.shape and torch.allclose(first, other, rtol=0, atol=rounding * scale, equal_nan=True)
