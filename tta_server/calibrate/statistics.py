"""The part `statistics` of the bundle: how much of the source's normalisation statistics should stay. No labels.

Networks differ: some read spoilt images best by these images' own statistics, others by half of them, and one of a
thousand classes by hardly any. So it is measured: source images are spoilt, and what should be answered to them is what
the network answers to the images as they were.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tta_server.adapters import create
from tta_server.calibrate.progress import Progress
from tta_server.guard.canary import bank
from tta_server.models import Backbone
from tta_server.models.robust import PART, robust

SHARES = 0.0, 0.25, 0.5, 0.75, 0.9, 1.0
"""What is tried; with 1 the statistics stay as they are, and so does what is answered."""

LEAST_IMAGES = 32
"""Fewer say too little."""

_MOST_IMAGES = 64  # of which each is answered six times for each share
_WINDOW = 32


@torch.no_grad()
def statistics(
    backbone: Backbone, images: np.ndarray, rng: np.random.Generator, progress: Progress
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the share of the source's statistics with which spoilt source images are read best.

    Each window is answered by the statistics of its own images, as a new domain's first images are. Of equal shares,
    the smaller is taken, as most papers have it; but if nothing is better than to leave the statistics, they are left.

    Args:
        backbone: A network with BatchNorm layers.
        images: Levels of source images (N, C, H, W).
        rng: Draws those that are spoilt.
        progress: Told about each share.

    Returns:
        The tensor `statistics/source_share`, 0-d in [0, 1], and what is said about it: the share of wrong answers with
        each of `SHARES`.

    Raises:
        ValueError: If there are too few images.
    """
    if len(images) < LEAST_IMAGES:
        raise ValueError(f"needs at least {LEAST_IMAGES} images, got {len(images)}")
    chosen = torch.from_numpy(images[rng.permutation(len(images))[:_MOST_IMAGES]]).float() / 255
    windows = [window.to(backbone.device) for way in bank(chosen).values() for window in torch.split(way, _WINDOW)]
    meant = [_labels(backbone, window.to(backbone.device)) for window in torch.split(chosen, _WINDOW)]
    errors = {}
    for done, share in enumerate(SHARES, 1):
        answered = _answers(robust(backbone, 1, source_share=share), windows)
        wrong = [labels != meant[index % len(meant)] for index, labels in enumerate(answered)]
        errors[share] = float(torch.cat(wrong).double().mean())
        progress("shares of the source's statistics", done, len(SHARES))
    best = min(SHARES, key=lambda share: (errors[share], share < 1, share))
    about = {"source_share": best, "errors": {str(share): error for share, error in errors.items()}}
    return {f"{PART}/source_share": torch.tensor(best)}, {PART: about}


def _answers(held: Backbone, windows: Sequence[Tensor]) -> list[Tensor]:
    """Return the labels (N,) that a domain with the images of each window would give them before its first step."""
    method = create("bn")
    fresh = method.init(held)
    return [method.predict(held, method.begin(held, fresh, window), window).logits.argmax(1) for window in windows]


def _labels(backbone: Backbone, window: Tensor) -> Tensor:
    return backbone.forward(window).logits.argmax(1)
