"""Which domain each image of a request belongs to.

A request usually shows one domain, and the mean of many images tells domains apart that single images do not: so the
request is judged as a whole first. Only if it lies nowhere, or scatters more than any one domain does, it is divided:
two cameras may share a stream.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tta_server.domains.place import Place, spread

NEW = -1
"""In the place of an index: no known domain."""

_STEADY_IMAGES = 8  # requests of fewer are judged together with the images before them
_LEAST_OF_A_NEW_ONE = 4
_WIDE = 2.0  # times a domain's own spread: then a request is looked at image by image
_STRANGE = 2.0  # distance of a single image that about one in a hundred of a domain exceeds
_CLEARLY_NEARER = 0.75


def route(places: Sequence[Place], styles: Tensor, limit: float) -> list[int]:
    """Say where each image of a request belongs.

    Args:
        places: Of the known domains, the source's first.
        styles: Whitened (N, D).
        limit: Distance from which images do not belong to a domain.

    Returns:
        An index of `places` for each image, or `NEW`.
    """
    nearest, distance = _nearest(places, styles)
    wide = (spread(styles) or 0.0) > _WIDE * places[nearest].spread
    if distance < limit and not wide:
        return [nearest] * len(styles)
    return _divide(places, styles, limit)


def follow(places: Sequence[Place], recent: Tensor, current: int, limit: float) -> int:
    """Say where a request of few images belongs, judged together with those before it.

    Args:
        places: Of the known domains, the source's first.
        recent: Whitened styles of the stream's last images, those of the request included (N, D).
        current: Where the stream has been.
        limit: As for `route`.

    Returns:
        An index of `places`, or `NEW`: to move takes a place that is clearly nearer, or none that is near.
    """
    nearest, distance = _nearest(places, recent)
    here = places[current].distance(recent)
    if here < limit and distance > _CLEARLY_NEARER * here:
        return current
    if distance < limit:
        return nearest
    return NEW if len(recent) >= _LEAST_OF_A_NEW_ONE else current


def is_few(images: int) -> bool:
    """Say whether so many images are judged together with those before them."""
    return images < _STEADY_IMAGES


def _nearest(places: Sequence[Place], styles: Tensor) -> tuple[int, float]:
    distances = [place.distance(styles) for place in places]
    nearest = min(range(len(places)), key=distances.__getitem__)
    return nearest, distances[nearest]


def _divide(places: Sequence[Place], styles: Tensor, limit: float) -> list[int]:
    each = torch.stack([place.each(styles) for place in places])
    nearest = each.argmin(0)
    found = torch.full((len(styles),), NEW)
    for index, place in enumerate(places):
        own = nearest == index
        if not own.any():
            continue
        if place.distance(styles[own]) >= limit:
            own &= each[index] < _STRANGE
        if own.any() and place.distance(styles[own]) < limit:
            found[own] = index
    rest = found == NEW
    if rest.any():
        near, distance = _nearest(places, styles[rest])
        if distance < limit or int(rest.sum()) < _LEAST_OF_A_NEW_ONE:
            found[rest] = near
    return [int(index) for index in found]
