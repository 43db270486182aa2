"""Null distributions: which drift scores windows of source images have, so without any drift."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tta_server.calibrate.labelled import Labelled, Progress
from tta_server.guard.drift import LEVELS, ImageScores, SourceStatistics, norm_scores, window_scores
from tta_server.models import Backbone

_LEAST_FORWARDS = 10


@dataclass(frozen=True)
class Windows:
    """Which windows are drawn, with replacement, from the source images.

    Attributes:
        sizes: Images in a window.
        draws: Windows of each size for the scores of answers, which cost next to nothing.
        forward_images: Images that are run through the network for each size, for the scores of normalisation layers,
            which need the batch statistics of each window; at least 10 windows are. Few windows make the outer
            quantiles coarse.
    """

    sizes: tuple[int, ...] = (16, 32, 64, 128, 256)
    draws: int = 1000
    forward_images: int = 3200

    def forwards(self, size: int) -> int:
        """Return how many windows of `size` images are run through the network."""
        return max(self.forward_images // size, _LEAST_FORWARDS)


def null(
    backbone: Backbone,
    data: Labelled,
    answers: ImageScores,
    source: SourceStatistics,
    windows: Windows,
    rng: np.random.Generator,
    progress: Progress,
) -> dict[str, Tensor]:
    """Return the distribution of every drift score over windows without drift.

    Args:
        backbone: The network.
        data: N source images.
        answers: What it said of them, and how far their features are, on the CPU.
        source: What windows are compared with, on the CPU.
        windows: Which are drawn.
        rng: Draws them.
        progress: Told about each forward.

    Returns:
        `null/<score>_<size>`: quantiles at `LEVELS`; `null_moments/<score>_<size>`: mean and standard deviation.
    """
    total = sum(windows.forwards(size) for size in windows.sizes) if backbone.norm_stats() else 0
    done, found = 0, {}
    for size in windows.sizes:
        chosen = rng.integers(len(data.labels), size=(windows.draws, size))
        scores = window_scores(ImageScores(*(values[torch.from_numpy(chosen)] for values in answers)), source)
        shifts = []
        for _ in range(windows.forwards(size) if total else 0):
            x = data.pixels(rng.integers(len(data.labels), size=size), backbone.device)
            shifts.append(_norm_scores(backbone, x))
            done += 1
            progress("windows without drift", done, total)
        scores |= {name: torch.stack([shift[name] for shift in shifts]) for name in (shifts[0] if shifts else ())}
        for name, values in scores.items():
            found[f"null/{name}_{size}"] = quantiles(values)
            found[f"null_moments/{name}_{size}"] = torch.stack([values.mean(), values.std()]).float().cpu()
    return found


@torch.no_grad()
def _norm_scores(backbone: Backbone, x: Tensor) -> dict[str, Tensor]:
    return norm_scores(backbone.forward(x, statistics="batch").moments, backbone.norm_stats())


def quantiles(values: Tensor) -> Tensor:
    """Return the quantiles at `LEVELS` of values (N,), float32 on the CPU."""
    values = values.detach().cpu().double()
    return torch.quantile(values, torch.tensor(LEVELS, dtype=values.dtype)).float()
