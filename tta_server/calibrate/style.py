"""The part `style` of the bundle: in which layers, and in which space, images are told from the source's. No labels."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import combinations
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tta_server.calibrate.progress import Progress
from tta_server.domains.place import Place
from tta_server.domains.space import PART, StyleSpace, fit, kin
from tta_server.guard.canary import bank
from tta_server.models import Backbone

LEAST_IMAGES = 32
"""Fewer say too little of how source images vary."""

_DEPTHS = 0.1, 0.5  # of the normalisation layers: the first see blur and noise late, the last see classes
_CANDIDATES, _CHOSEN = 10, 2
_MOST_VALUES = 1024  # of a style, if layers allow it: the space of more costs minutes
_MOST_IMAGES = 1000  # more change nothing that is seen
_SPOILT_IMAGES = 64

_FITTED = 0.6  # of the images; the rest say how far others lie
_LEVEL, _MARGIN = 0.95, 1.5  # the limit is this quantile of windows of one class, times a margin
_FOLDS = 5  # classes are left out a fifth at a time, to see how far windows of unknown ones lie


def style(
    backbone: Backbone, images: np.ndarray, rng: np.random.Generator, batch: int, progress: Progress
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the space of a model's source images.

    Layers are compared by how well they tell source images that are spoilt in six ways from others, as areas under the
    ROC curve, image by image.

    Args:
        backbone: The network.
        images: Levels of source images (N, C, H, W).
        rng: Draws which images are used for what.
        batch: Images in one forward.
        progress: Told about each forward.

    Returns:
        Tensors `style/mean` and `style/whitener`, and what is said about them.

    Raises:
        ValueError: If there are too few images, all look alike, or the network has no layer with a style.
    """
    if len(images) < LEAST_IMAGES:
        raise ValueError(f"needs at least {LEAST_IMAGES} images, got {len(images)}")
    chosen = torch.from_numpy(images[rng.permutation(len(images))[:_MOST_IMAGES]])
    fitted = int(_FITTED * len(chosen))
    most = min(_MOST_VALUES, fitted)  # of more values than images, how they vary together is not known
    widths = _widths(backbone, most)
    if not widths:
        raise ValueError("needs a normalisation layer, in the first half of the network, that sees each image once")
    clean, classes = _look(backbone, chosen, widths, batch, partial(progress, "styles"))
    ways = bank(chosen[fitted : fitted + _SPOILT_IMAGES].float() / 255)
    every = torch.cat(list(ways.values()))
    spoilt, _ = _look(backbone, every, widths, batch, partial(progress, "styles of spoilt images"))

    def score(layers: tuple[str, ...]) -> float:
        space, others = _space(layers, clean, classes[:fitted])
        whitened = space.whiten(_joined(spoilt, layers)).chunk(len(ways))
        return mean(_area(space, others, way) for way in whitened)

    layers = max(_choices(widths, most), key=score)
    space, others = _space(layers, clean, classes[:fitted])
    known = len(torch.unique(classes)) / backbone.spec.classes
    joined = _joined(clean, layers)
    limit = _limit(space, others, classes[fitted:], _unknown(joined, classes, fitted, rng), known)
    about = {"layers": list(layers), "images": space.images, "limit": limit, "classes": known}
    tensors = {f"{PART}/mean": space.mean.float().cpu(), f"{PART}/whitener": space.whitener.float().cpu()}
    return tensors, {PART: about | {"area": score(layers)}}


def _widths(backbone: Backbone, most: int) -> dict[str, int]:
    """Return the layers that may be chosen, in order, with the number of values of their styles.

    Those that are small enough for two, if there are any: blocks repeat, and every third layer may be a wide one.
    """
    paths = backbone.norm_layers
    first, last = (round(depth * (len(paths) - 1)) for depth in _DEPTHS)
    found = {}
    for path in paths[first : last + 1]:
        with suppress(ValueError):  # it does not see each image once
            found[path] = backbone.styles(
                torch.zeros(2, *backbone.spec.input_shape, device=backbone.device), [path], answer=False
            )[0].shape[1]
    small = [path for path, width in found.items() if width <= most // _CHOSEN] or list(found)
    return {path: found[path] for path in small[:: max(1, math.ceil(len(small) / _CANDIDATES))]}


def _choices(widths: Mapping[str, int], most: int) -> list[tuple[str, ...]]:
    """Return what may be chosen: layers together if their styles are small enough, else single ones, else the least."""
    for number in (min(_CHOSEN, len(widths)), 1):
        choices = list(combinations(widths, number))
        small = [layers for layers in choices if sum(widths[layer] for layer in layers) <= most]
        if small:
            return small
    return [(layer,) for layer, width in widths.items() if width == min(widths.values())]


def _look(
    backbone: Backbone, images: Tensor, widths: dict[str, int], batch: int, told: Callable[[int, int], None]
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the style of each image in each layer, and the class that is predicted for it; on the CPU."""
    styles, classes = [], []
    for start in range(0, len(images), batch):
        x = images[start : start + batch].to(backbone.device)
        found, output = backbone.styles(x if x.is_floating_point() else x.float() / 255, tuple(widths))
        styles.append(found.cpu())
        classes.append(output.logits.argmax(1).cpu() if output else torch.zeros(len(x)))
        told(min(start + batch, len(images)), len(images))
    parts = torch.split(torch.cat(styles), list(widths.values()), 1)
    return dict(zip(widths, parts, strict=True)), torch.cat(classes)


def _joined(styles: Mapping[str, Tensor], layers: Sequence[str]) -> Tensor:
    return torch.cat([styles[layer] for layer in layers], 1)


def _space(layers: tuple[str, ...], clean: Mapping[str, Tensor], classes: Tensor) -> tuple[StyleSpace, Tensor]:
    """Return the space of some layers, fitted on the images whose classes are given, and the other images in it."""
    styles = _joined(clean, layers)
    space = fit(layers, styles[: len(classes)], styles[len(classes) :], classes)
    return space, space.whiten(styles[len(classes) :])


def _area(space: StyleSpace, clean: Tensor, spoilt: Tensor) -> float:
    """Return how often a spoilt image lies farther from the source than a clean one."""
    home = Place.source(len(space.mean), space.images)
    near, far = home.each(clean), home.each(spoilt)
    farther = (far[:, None] > near).double() + (far[:, None] == near).double() / 2
    return float(farther.mean())


def _limit(space: StyleSpace, styles: Tensor, classes: Tensor, unknown: Tensor, known: float) -> float:
    """Return the distance beyond which images are not the source's: windows of one class are, and lie far out.

    Args:
        space: Where.
        styles: Of images that it was not fitted on, whitened (N, D).
        classes: As they are predicted (N,).
        unknown: Distances of windows of classes that a space was not fitted on (W,).
        known: Share of the network's classes that there are images of: a stream shows the others as well.
    """
    home = Place.source(len(space.mean), space.images)
    own = torch.tensor([home.distance(window) for window in kin(styles, classes)], dtype=torch.float64)
    weights = torch.cat([torch.full_like(own, known / len(own)), torch.full_like(unknown, (1 - known) / len(unknown))])
    distances, order = torch.cat([own, unknown]).sort()
    reached = weights[order].cumsum(0)
    return _MARGIN * max(1.0, float(distances[torch.searchsorted(reached, _LEVEL * reached[-1])]))


def _unknown(styles: Tensor, classes: Tensor, fitted: int, rng: np.random.Generator) -> Tensor:
    """Return how far windows of one class lie from the source if no image of their class is known; (W,), W >= 1.

    Args:
        styles: Of all images (N, D), as the network gives them.
        classes: As they are predicted (N,).
        fitted: How many images, the first, a space is fitted on; the scale of distances is that of the others.
        rng: Draws which classes are left out together.
    """
    kinds = torch.unique(classes)
    folds = torch.from_numpy(rng.permutation(len(kinds)) % _FOLDS)[torch.searchsorted(kinds, classes)]
    first = torch.arange(len(classes)) < fitted
    found = []
    for fold in torch.unique(folds):
        out = folds == fold
        with suppress(ValueError):  # too few are left
            space = fit((), styles[first & ~out], styles[~first & ~out], classes[first & ~out])
            home = Place.source(len(space.mean), space.images)
            found += [home.distance(window) for window in kin(space.whiten(styles[out]), classes[out])]
    return torch.tensor(found or [1.0], dtype=torch.float64)
