"""Which normalisation statistics a stream answers with: its batch's own, or those of all images that it has seen.

With the stream's own ("ema") a row's answer does not depend on its neighbours and a batch of one is fine. Learning
still normalises by the window's own statistics, with their gradient: it is what holds entropy minimisation back.

Source: Schneider et al., NeurIPS 2020, arXiv:2006.16971, for the source as a prior worth some images.
Differs: worth 4, where the paper has 16 and more; what was seen accumulates, every layer alike, because moments were
measured layer behind layer and fit together only as a whole; a window counts at least a tenth, so that slow change is
followed however much was seen.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from tta_server.adapters.base import Adapter, State, TooFewImagesError, accept, group, ungroup
from tta_server.adapters.bounds import OptionalShare
from tta_server.models import Backbone, Output, Tensors, TooFewValuesError
from tta_server.models.pooled import pool

Stats = Literal["batch", "ema"]

_COUNT = "count/images"
_PRIOR_IMAGES, _MOST_IMAGES = 4.0, 2.0**20  # counted exactly in float32
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Normalised(Adapter):
    """An adapter that answers from its batch's statistics or from the stream's moving ones.

    Attributes:
        stats: "batch" answers each batch from its own statistics (the papers), "ema" from the stream's moving ones.
        stats_momentum: Share of a new batch in the moving statistics, in (0, 1]; None is its share of all images seen.
    """

    stats: Stats = "ema"
    stats_momentum: OptionalShare = None

    @property
    def batch_coupled(self) -> bool:
        """Whether rows of one forward share their statistics."""
        return self.stats == "batch"

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W)."""
        self._check_rows(backbone, x)
        if self.stats == "batch":
            return backbone.forward(x, self._learnt(backbone, state), "batch")
        return backbone.forward(x, {**self._learnt(backbone, state), **group(state, "stats")})

    def begin(self, backbone: Backbone, state: State, x: Tensor) -> State:
        """Return `state` with its statistics moved by `x`, unless that is one value a channel; waits for the device."""
        if _COUNT not in state:
            return state
        share = self.stats_momentum or float(_share(state, len(x)))
        try:
            output = backbone.forward(x, {**self._learnt(backbone, state), **group(state, "stats")}, share)
        except TooFewValuesError:
            return state
        return accept(state, track_stats(state, output, self.stats_momentum), x.isfinite().all(), output.logits)[0]

    def alone(self) -> Adapter:
        """Return the adapter that answers each batch from its own statistics."""
        return replace(self, stats="batch")

    def _learnt(self, backbone: Backbone, state: State) -> Tensors:
        """Return what answers in place of the network's own tensors, beside statistics."""
        return group(state, "theta")

    def _check_rows(self, backbone: Backbone, x: Tensor) -> None:
        if self.stats == "batch" and x.shape[0] < 2 and "batchnorm" in backbone.spec.capabilities:
            raise TooFewImagesError(
                f"batch statistics need at least 2 images, got {len(x)}; send more at once, or use stats='ema'"
            )


def source_stats(backbone: Backbone) -> dict[str, Tensor]:
    """Return the source statistics as the `stats/` group of a state."""
    return ungroup("stats", {name: tensor.clone() for name, tensor in backbone.norm_stats().items()})


def init_stats(backbone: Backbone) -> dict[str, Tensor]:
    """Return the source statistics (`stats/`), if there are any, and the images they count for (`count/images`)."""
    stats = source_stats(backbone)
    return stats | {_COUNT: torch.tensor(_PRIOR_IMAGES, device=backbone.device)} if stats else {}


def track_stats(state: State, output: Output, momentum: float | None = None) -> dict[str, Tensor]:
    """Return `stats/` and `count/images` of `state`, moved by the images of `output`; empty if it has none.

    Their share is `momentum`, else theirs of all images seen, at least a tenth.
    """
    if _COUNT not in state:
        return {}
    images, stats = len(output.logits), group(state, "stats")
    moved = track(stats, output.moments, momentum) if momentum else pool(stats, output.moments, _share(state, images))
    return ungroup("stats", moved) | {_COUNT: (state[_COUNT] + images).clamp(max=_MOST_IMAGES)}


def track(stored: Tensors, moments: Tensors, momentum: float) -> dict[str, Tensor]:
    """Return `<layer>.running_mean` and `.running_var` (C,), moved as BatchNorm does in training.

    A layer that the forward, which reported the moments of a window, did not reach keeps its own.
    """
    return {name: torch.lerp(old, moments[name], momentum) if name in moments else old for name, old in stored.items()}


def _share(state: State, images: int) -> Tensor:
    return (images / (images + state[_COUNT])).clamp(_LEAST_SHARE, 1)
