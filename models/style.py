"""Style: how an image looks to a network, as mean and spread of what goes into some normalisation layers.

Source: Huang & Belongie, ICCV 2017, arXiv:1703.06868, section 3, for channel-wise mean and deviation as style.
Differs: the logarithm of the deviation, so that a change of contrast is a shift; several layers side by side.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tta_server.models.affine_norm import channels

_LEAST_DEVIATION = 1e-5  # a channel that is constant over an image has a finite logarithm


class _Reached(Exception):
    pass


@contextmanager
def listening(layers: Mapping[str, nn.Module], stop: bool) -> Iterator[dict[str, Tensor]]:
    """Hear the style of what goes into normalisation layers while the block runs.

    Args:
        layers: By path.
        stop: Whether the block ends as soon as all have been heard.

    Yields:
        By path, the style (N, 2 C) of each layer that was reached; of one that is used twice, the first.
    """
    heard: dict[str, Tensor] = {}

    def hear(path: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        if path not in heard:
            heard[path] = style(args[0], channels(layer))
        if stop and len(heard) == len(layers):
            raise _Reached

    handles = [layer.register_forward_pre_hook(partial(hear, path)) for path, layer in layers.items()]
    try:
        with suppress(_Reached):
            yield heard
    finally:
        for handle in handles:
            handle.remove()


def style(x: Tensor, channels: int) -> Tensor:
    """Return mean and log standard deviation of each channel of each image.

    Args:
        x: What goes into a layer: maps (N, C, ...), or tokens (N, ..., C) as transformers have them.
        channels: C. If both the second and the last dimension have that size, four dimensions are maps and three
            tokens.

    Returns:
        (N, 2 C) float32, without gradient.

    Raises:
        ValueError: If there are no such channels, or only one value of each.
    """
    tokens = x.dim() > 2 and x.shape[-1] == channels and (x.dim() == 3 or x.shape[1] != channels)
    if not tokens and (x.dim() < 3 or x.shape[1] != channels):
        raise ValueError(f"style needs maps or tokens of {channels} channels, got shape {tuple(x.shape)}")
    values = (x.movedim(-1, 1) if tokens else x).detach().flatten(2).float()
    mean = values.mean(2)
    # In two passes: on a CPU, `std_mean` takes eight times as long, which is a third of a small network's forward.
    deviation = torch.linalg.vector_norm(values - mean[:, :, None], dim=2) / values.shape[2] ** 0.5
    return torch.cat([mean, (deviation + _LEAST_DEVIATION).log()], 1)
