"""Null distributions: which drift scores windows of source images have, so without any drift."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tta_server.calibrate.mixed import Mixed
from tta_server.calibrate.progress import Progress
from tta_server.drift.scores import LEVELS, ImageScores, SourceStatistics, norm_scores, window_scores
from tta_server.models import Backbone

_LEAST_FORWARDS = 10


@dataclass(frozen=True)
class Windows:
    """Which windows are drawn, with replacement, from the source images.

    Attributes:
        sizes: Images in a window; those beyond the images that there are do not count.
        draws: Windows of each size for the scores of answers, which cost next to nothing.
        forward_images: Images that are run through the network for each size, for the scores of normalisation layers,
            which need the batch statistics of each window; at least 10 windows are, and 0 leaves these scores out. Few
            windows make the outer quantiles coarse.
        most_bytes: Of the images of a window, as floats, that is run through the network in one piece; larger ones are
            not, and have no scores of normalisation layers.
    """

    sizes: tuple[int, ...] = (16, 32, 64, 128, 256)
    draws: int = 1000
    forward_images: int = 3200
    most_bytes: int = 64 * 2**20

    def planned(self, images: int, backbone: Backbone) -> dict[str, int]:
        """Return, for each size of window that so many images allow, how many are run through the network."""
        return {str(size): self._forwards(size, backbone) for size in self.sizes if size <= images}

    def _forwards(self, size: int, backbone: Backbone) -> int:
        image_bytes = math.prod(backbone.spec.input_shape) * torch.float32.itemsize
        if not self.forward_images or size * image_bytes > self.most_bytes:
            return 0
        return max(self.forward_images // size, _LEAST_FORWARDS)


def null(
    backbone: Backbone,
    data: Mixed,
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

    Raises:
        ValueError: If there are fewer images than the smallest window has.
    """
    planned = {int(size): forwards for size, forwards in windows.planned(len(data), backbone).items()}
    if not planned:
        raise ValueError(f"needs at least {min(windows.sizes)} images, got {len(data)}")
    total = sum(planned.values()) if backbone.norm_stats() else 0
    done, found = 0, {}
    for size, forwards in planned.items():
        chosen = rng.integers(len(data), size=(windows.draws, size))
        scores = window_scores(ImageScores(*(values[torch.from_numpy(chosen)] for values in answers)), source)
        shifts = []
        for _ in range(forwards if total else 0):
            x = data.pixels(rng.integers(len(data), size=size), backbone.device)
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
