"""Which layers of a network normalise and then scale and shift: what adapters may move."""

import re

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_KINDS = nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _BatchNorm
# Libraries have classes of their own, which derive from none of torch's but say in their names what they do.
_NAMES = re.compile("(batch|layer|rms|group|instance|evo|stream)norm", re.IGNORECASE)


def own_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Return the scales and shifts (C,) of a normalisation layer by their names in it; empty for any other layer."""
    if not (isinstance(layer, _KINDS) or _NAMES.search(type(layer).__name__)):
        return {}
    parameters = dict(layer.named_parameters(recurse=False))
    vectors = all(p.dim() <= 1 for p in parameters.values()) or isinstance(layer, _KINDS)
    return parameters if vectors else {}


def is_norm(layer: nn.Module) -> bool:
    """Return whether a layer is a normalisation layer, with or without scale and shift."""
    return isinstance(layer, _KINDS) or bool(own_parameters(layer)) or hasattr(layer, "running_mean")


def has_statistics(layer: nn.Module) -> bool:
    """Return whether a layer keeps the mean of what it was trained on; some have the attribute, and None in it."""
    return getattr(layer, "running_mean", None) is not None


def channels(layer: nn.Module) -> int:
    """Return the number of channels C of a normalisation layer.

    Raises:
        ValueError: If it does not say.
    """
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return int(layer.normalized_shape[-1])
    for tensor in (getattr(layer, name, None) for name in ("running_mean", "weight")):
        if tensor is not None and tensor.dim():
            return len(tensor)
    if isinstance(found := getattr(layer, "num_features", None), int):  # InstanceNorm usually holds no tensor
        return found
    raise ValueError(f"a {type(layer).__name__} does not say how many channels it has")
