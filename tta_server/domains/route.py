"""Which domain each image of a request belongs to.

A request usually shows one domain, and the mean of many images tells domains apart that single images do not: so it is
cut where it changes, and each part is judged as a whole. Only a part that scatters more than any one domain does is
divided image by image: two cameras may share a stream. What lies within the source's reach is at home, however near a
learnt domain is: there, the frozen model is what a user has asked for. What lies nowhere, but is too little for a
domain of its own, is the source's too, unless a learnt domain is clearly nearer.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tta_server.domains.place import Place, distances, spread
from tta_server.domains.space import KIN_IMAGES

NEW = -1
"""In the place of an index: no known domain."""

RECENT = 16
"""Images of a stream that are kept to judge requests of few together with."""

_FEW = 8
_REACH = 1.75  # times the limit: how far from a learnt domain images may lie that still belong to it
_LEAST_OF_A_NEW_ONE = 4
_WIDE = 2.0  # times a domain's own spread: then a request is looked at image by image
_STRANGE = 2.0  # distance of a single image that about one in a hundred of a domain exceeds
_CLEARLY_NEARER = 0.75


def route(places: Sequence[Place], styles: Tensor, limit: float) -> list[int]:
    """Say where each image of a request belongs.

    Args:
        places: Of the known domains, the source's first.
        styles: Whitened, in order (N, D).
        limit: Distance from which images are not the source's any more.

    Returns:
        An index of `places` for each image, or `NEW`.
    """
    found = torch.tensor(_places_of(places, styles, limit))
    strange = found == NEW
    if strange.any() and not _is_new(distances(places, styles[strange]), int(strange.sum()), limit):
        found[strange] = _least_strange(torch.stack([place.each(styles[strange]) for place in places]))
    return [int(index) for index in found]


def follow(places: Sequence[Place], recent: Tensor, current: int, limit: float) -> tuple[int, list[float]]:
    """Say where a request of few images belongs, judged together with those before it.

    Args:
        places: Of the known domains, the source's first.
        recent: Whitened styles of the stream's last images, those of the request included, since the last change; see
            `settled` (N, D), N >= 1.
        current: Where the stream has been.
        limit: As for `route`.

    Returns:
        An index of `places`, or `NEW`; and how far the images lie from each place. To move from one learnt domain to
        another takes one that is clearly nearer.
    """
    apart = distances(places, recent)
    near = _near(apart, limit)
    if near is None:
        if _is_new(apart, len(recent), limit):
            return NEW, apart
        return int(_least_strange(torch.tensor(apart)[:, None])), apart
    if current and near and _CLEARLY_NEARER * apart[current] < apart[near]:
        return current, apart
    return near, apart


def settled(recent: Tensor, limit: float) -> Tensor:
    """Return the last of a stream's images, whitened and in order (N, D), from the last change on; see `route`."""
    change = _change(recent, limit)
    return settled(recent[change:], limit) if change else recent


def is_few(images: int) -> bool:
    """Say whether so many images are judged together with those before them."""
    return images < _FEW


def reach(index: int, limit: float) -> float:
    """Return the distance from which images do not belong to a place any more.

    A learnt domain reaches farther than the source: its centre may be known from images of one class, and classes
    differ more when images are spoilt. To miss the source costs a user something, to join two like domains hardly.
    """
    return _REACH * limit if index else limit


def _change(styles: Tensor, limit: float) -> int:
    """Return before which image a stream has changed most, 0 if it has not.

    A change is where the images before and after it lie as far apart as a domain reaches; how much images scatter is
    said by the median distance of two that follow one another, which a change leaves alone.
    """
    values = styles.numpy()  # small, and looked at with every request: see `place.spread`
    count, dimensions = values.shape
    if count < 2:
        return 0
    steps = np.square(values[1:] - values[:-1]).sum(1) / dimensions
    usual = max(1.0, float(np.sort(steps)[(count - 2) // 2]) / 2)
    sums, (before, after, chance) = values.cumsum(0), _cuts(count)
    means, later = sums[:-1] / before[:, None], (sums[-1] - sums[:-1]) / after[:, None]
    apart = np.square(means - later).sum(1) / dimensions / chance
    most = int(apart.argmax())
    return most + 1 if apart[most] >= usual * reach(1, limit) else 0


@lru_cache(64)
def _cuts(count: int) -> tuple[npt.NDArray[np.float64], ...]:
    """Return of each place to cut so many images in two: how many are before and after it, and what chance explains."""
    before = np.arange(1.0, count)
    after = count - before
    return before, after, 1 / before + 1 / after + 1 / KIN_IMAGES


def _near(apart: Sequence[float], limit: float) -> int | None:
    """Return the source if images lie within its reach, else the nearest of the places within whose reach they lie."""
    within = [index for index, distance in enumerate(apart) if distance < reach(index, limit)]
    return 0 if 0 in within else min(within, key=apart.__getitem__, default=None)


def _is_new(apart: Sequence[float], images: int, limit: float) -> bool:
    """Say whether images that lie nowhere are a domain: the fewer they are, the farther out they must lie."""
    return images >= _LEAST_OF_A_NEW_ONE and min(apart) >= limit * max(1.0, KIN_IMAGES / images)


def _least_strange(apart: Tensor) -> Tensor:
    """Return where images belong that lie nowhere (N,), by their distances from each place (places, N)."""
    return torch.where(apart.amin(0) < _CLEARLY_NEARER * apart[0], apart.argmin(0), 0)


def _places_of(places: Sequence[Place], styles: Tensor, limit: float) -> list[int]:
    """Return where each image lies; `NEW` of those that lie nowhere, however few."""
    change = _change(styles, limit)
    if change:
        return _places_of(places, styles[:change], limit) + _places_of(places, styles[change:], limit)
    near = _near(distances(places, styles), limit)
    if (spread(styles) or 0.0) > _WIDE * places[near or 0].spread:
        return _divide(places, styles, limit)
    return [NEW if near is None else near] * len(styles)


def _divide(places: Sequence[Place], styles: Tensor, limit: float) -> list[int]:
    """Return where each image lies on its own."""
    each = torch.stack([place.each(styles) for place in places])
    nearest = each.argmin(0)
    found = torch.full((len(styles),), NEW)
    for index, place in enumerate(places):
        own = nearest == index
        if not own.any():
            continue
        if place.distance(styles[own]) >= reach(index, limit):
            own &= each[index] < _STRANGE
        if own.any() and place.distance(styles[own]) < reach(index, limit):
            found[own] = index
    return [int(index) for index in found]
