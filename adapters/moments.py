"""Which normalisation statistics a stream answers with: its batch's own, or its own moving ones.

With moving statistics ("ema") a row's answer does not depend on its neighbours and a batch of one is fine. Learning
still normalises by the window's own statistics, with their gradient: it is what holds entropy minimisation back.

Source: Ioffe & Szegedy 2015 for moving statistics; James & Stein 1961 for the gain.
Differs: the gain is not fixed. A layer keeps its stored mean as far as the window's differs from it by no more than
sampling noise, and follows at once when the domain switches; a fixed 0.1 is too slow then and too restless otherwise.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from tta_server.adapters.base import Adapter, State, TooFewImagesError, group, ungroup
from tta_server.adapters.bounds import OptionalShare
from tta_server.models import Backbone, Output, Tensors

Stats = Literal["batch", "ema"]

MIN_GAIN = 0.05
"""A layer always follows a little, so that slow drift below the noise is not ignored for ever."""


@dataclass(frozen=True)
class Normalised(Adapter):
    """An adapter that answers from its batch's statistics or from the stream's moving ones.

    Attributes:
        stats: "batch" answers each batch from its own statistics (the papers), "ema" from the stream's moving ones.
        stats_momentum: Share of a new batch in the moving statistics, in (0, 1]; None chooses it per layer.
    """

    stats: Stats = "ema"
    stats_momentum: OptionalShare = None

    @property
    def batch_coupled(self) -> bool:
        """Whether rows of one forward share their statistics."""
        return self.stats == "batch"

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W)."""
        return predict(backbone, state, x, self.stats)

    def alone(self) -> Adapter:
        """Return the adapter that answers each batch from its own statistics."""
        return replace(self, stats="batch")

    def _check_rows(self, backbone: Backbone, x: Tensor) -> None:
        if self.stats == "batch":
            check_rows(backbone, x)


def init_stats(backbone: Backbone) -> dict[str, Tensor]:
    """Return the source statistics as the `stats/` group of a state."""
    return ungroup("stats", {name: tensor.clone() for name, tensor in backbone.norm_stats().items()})


def predict(backbone: Backbone, state: State, x: Tensor, stats: Stats) -> Output:
    """Answer `x` (N, C, H, W) with the scales, shifts and statistics of `state`.

    Raises:
        ValueError: If `stats` is "batch" and there is only one image.
    """
    theta = group(state, "theta")
    if stats == "ema":
        return backbone.forward(x, theta | group(state, "stats"))
    check_rows(backbone, x)
    return backbone.forward(x, theta, "batch")


def check_rows(backbone: Backbone, x: Tensor) -> None:
    """Refuse to take batch statistics of a single image.

    Raises:
        TooFewImagesError: If `x` (N, C, H, W) has one image and the backbone has BatchNorm layers.
    """
    if x.shape[0] < 2 and "batchnorm" in backbone.spec.capabilities:
        raise TooFewImagesError("batch statistics need at least 2 images, got 1; send more at once, or use stats='ema'")


def track(stored: Tensors, moments: Tensors, momentum: float | None = None) -> dict[str, Tensor]:
    """Move stored statistics towards those of a window.

    Args:
        stored: `<layer>.running_mean` and `<layer>.running_var` (C,).
        moments: What a forward with batch statistics reported of the window.
        momentum: Share of the window, in (0, 1]; None chooses it per layer, see `gain`.

    Returns:
        New statistics, named as `stored`; a layer that the forward did not reach keeps its own.
    """
    moved = dict(stored)
    for name in stored:
        layer, _, kind = name.rpartition(".")
        if kind == "running_mean" and name in moments:
            mean, var = name, f"{layer}.running_var"
            share = gain(stored[mean], stored[var], moments[mean], moments[f"{layer}.noise"])
            for key in (mean, var):
                moved[key] = torch.lerp(stored[key], moments[key], share if momentum is None else momentum)
    return moved


def track_stats(state: State, moments: Tensors, momentum: float | None = None) -> dict[str, Tensor]:
    """Return the `stats/` group of `state`, moved as `track` does; empty if the state has none."""
    return ungroup("stats", track(group(state, "stats"), moments, momentum))


def gain(mean: Tensor, var: Tensor, window_mean: Tensor, noise: Tensor) -> Tensor:
    """Return how far a layer's statistics should follow a window: positive-part James-Stein shrinkage.

    With the distance D = mean over channels of (window_mean - mean)^2 / var and the noise V = mean of noise / var, the
    part of D that is not sampling noise is (D - V) / D.

    Args:
        mean: Stored mean (C,).
        var: Stored variance (C,).
        window_mean: Mean over the window (C,).
        noise: Squared standard error of that mean (C,); infinite where it is unknown.

    Returns:
        A share in [MIN_GAIN, 1], 0-d.
    """
    scale = var.clamp(min=1e-12)
    distance = ((window_mean - mean).square() / scale).mean()
    return ((distance - (noise / scale).mean()) / distance.clamp(min=1e-12)).clamp(MIN_GAIN, 1)
