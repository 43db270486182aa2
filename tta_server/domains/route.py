"""Which domain each image of a request belongs to.

A request usually shows one domain, and the mean of many images tells domains apart that single images do not: so it is
cut where it changes, and each part is judged as a whole. Only a part that scatters more than the source does is divided
image by image, however wide the domains are that it may be of: two cameras may share a stream, and a domain of what is
no picture at all lies around everything. What lies within the source's reach is at home, however near a learnt domain
is: there, the frozen model is what a user has asked for. What lies nowhere, but is too little for a domain of its own,
is the source's too, unless a learnt domain is clearly nearer.
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
_WIDE = 2.0  # times the source's spread: then images are looked at one by one
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
    found = [index for part in _parts(styles, limit) for index in _places_of(places, part, limit)]
    return _with_strange(places, styles, found, limit)


def follow(places: Sequence[Place], seen: Tensor, current: int, limit: float) -> list[int]:
    """Say where a stream's last images belong, a request of few among them.

    Args:
        places: Of the known domains, the source's first.
        seen: Whitened, in order; the request's are the last (N, D), N >= 1.
        current: Where the stream has been. To move from one learnt domain to another takes one that is clearly nearer.
        limit: As for `route`.

    Returns:
        An index of `places` for each image, or `NEW`.
    """
    found = []
    for part in _parts(seen, limit):
        if _scatters(part):
            found += _with_strange(places, part, _divide(places, part, limit), limit)
        else:
            found += [_follows(places, part, current, limit)] * len(part)
    return found


def settled(recent: Tensor, limit: float) -> Tensor:
    """Return the last of a stream's images, whitened and in order (N, D), from the last change on; see `route`."""
    return _parts(recent, limit)[-1]


def is_few(images: int) -> bool:
    """Say whether so many images are judged together with those before them."""
    return images < _FEW


def reach(index: int, limit: float) -> float:
    """Return the distance from which images do not belong to a place any more.

    A learnt domain reaches farther than the source: its centre may be known from images of one class, and classes
    differ more when images are spoilt. To miss the source costs a user something, to join two like domains hardly.
    """
    return _REACH * limit if index else limit


def _parts(styles: Tensor, limit: float) -> list[Tensor]:
    """Return images in order, cut where they change."""
    change = _change(styles, limit)
    return [*_parts(styles[:change], limit), *_parts(styles[change:], limit)] if change else [styles]


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


def _scatters(styles: Tensor) -> bool:
    return (spread(styles) or 0.0) > _WIDE


def _near(places: Sequence[Place], styles: Tensor, apart: Sequence[float], limit: float) -> int | None:
    """Return the source if images lie within its reach, else the nearest of the places within whose reach they lie.

    Of a single image nobody knows how much its like scatters; the widest would be the nearest, so the likeliest is.
    """
    within = [index for index, distance in enumerate(apart) if distance < reach(index, limit)]
    if 0 in within:
        return 0
    if len(styles) == 1:
        return min(within, key=lambda index: float(places[index].surprise(styles)), default=None)
    return min(within, key=apart.__getitem__, default=None)


def _follows(places: Sequence[Place], styles: Tensor, current: int, limit: float) -> int:
    """Return where images belong that are judged as one; see `follow`."""
    apart = distances(places, styles)
    near = _near(places, styles, apart, limit)
    if near is None:
        return NEW if _is_new(apart, len(styles), limit) else int(_least_strange(torch.tensor(apart)[:, None]))
    stays = current and near and _CLEARLY_NEARER * apart[current] < apart[near]
    return current if stays else near


def _is_new(apart: Sequence[float], images: int, limit: float) -> bool:
    """Say whether images that lie nowhere are a domain: the fewer they are, the farther out they must lie."""
    return images >= _LEAST_OF_A_NEW_ONE and min(apart) >= limit * max(1.0, KIN_IMAGES / images)


def _least_strange(apart: Tensor) -> Tensor:
    """Return where images belong that lie nowhere (N,), by their distances from each place (places, N)."""
    return torch.where(apart.amin(0) < _CLEARLY_NEARER * apart[0], apart.argmin(0), 0)


def _with_strange(places: Sequence[Place], styles: Tensor, found: Sequence[int], limit: float) -> list[int]:
    """Return where images belong, those too that lie nowhere (`NEW`) and are too few for a domain."""
    where = torch.tensor(found)
    strange = where == NEW
    if strange.any() and not _is_new(distances(places, styles[strange]), int(strange.sum()), limit):
        where[strange] = _least_strange(torch.stack([place.each(styles[strange]) for place in places]))
    return [int(index) for index in where]


def _places_of(places: Sequence[Place], styles: Tensor, limit: float) -> list[int]:
    """Return where images lie among which there is no change; `NEW` of those that lie nowhere, however few."""
    if _scatters(styles):
        return _divide(places, styles, limit)
    near = _near(places, styles, distances(places, styles), limit)
    return [NEW if near is None else near] * len(styles)


def _divide(places: Sequence[Place], styles: Tensor, limit: float) -> list[int]:
    """Return where each image lies on its own: of the places where it is likeliest, if it is likely there at all."""
    likeliest = torch.stack([place.surprise(styles) for place in places]).argmin(0)
    found = torch.full((len(styles),), NEW)
    for index, place in enumerate(places):
        own = likeliest == index
        if not own.any():
            continue
        if place.distance(styles[own]) >= reach(index, limit):
            own &= place.each(styles) < _STRANGE
        if own.any() and place.distance(styles[own]) < reach(index, limit):
            found[own] = index
    return [int(index) for index in found]
