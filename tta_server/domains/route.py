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

from tta_server.domains.place import Group, Place, Values, distances, each, surprises
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


def route(places: Sequence[Place], seen: Group, limit: float) -> list[int]:
    """Say where each image of a request belongs.

    Args:
        places: Of the known domains, the source's first.
        seen: The images.
        limit: Distance from which images are not the source's any more.

    Returns:
        An index of `places` for each image, or `NEW`.
    """
    found: list[int] = []
    for part in cut(seen, limit):
        found += _divide(places, part, limit) if _scatters(part) else [_near(places, part, limit)] * len(part)
    return _with_strange(places, seen, found, limit)


def follow(places: Sequence[Place], parts: Sequence[Group], current: int, limit: float) -> list[int]:
    """Say where a stream's last images belong, a request of few among them.

    Args:
        places: Of the known domains, the source's first.
        parts: The images, as `cut` returns them; the request's are the last.
        current: Where the stream has been. To move from one learnt domain to another takes one that is clearly nearer.
        limit: As for `route`.

    Returns:
        An index of `places` for each image, or `NEW`.
    """
    found: list[int] = []
    for part in parts:
        if _scatters(part):
            found += _with_strange(places, part, _divide(places, part, limit), limit)
        else:
            found += [_follows(places, part, current, limit)] * len(part)
    return found


def cut(seen: Group, limit: float) -> list[Group]:
    """Return images in order, cut where they change; the same group if they do not."""
    change = _change(seen, limit)
    if not change:
        return [seen]
    return [*cut(Group(seen.styles[:change]), limit), *cut(Group(seen.styles[change:]), limit)]


def is_few(images: int) -> bool:
    """Say whether so many images are judged together with those before them."""
    return images < _FEW


def reach(index: int, limit: float) -> float:
    """Return the distance from which images do not belong to a place any more.

    A learnt domain reaches farther than the source: its centre may be known from images of one class, and classes
    differ more when images are spoilt. To miss the source costs a user something, to join two like domains hardly.
    """
    return _REACH * limit if index else limit


def _change(seen: Group, limit: float) -> int:
    """Return before which image a stream has changed most, 0 if it has not.

    A change is where the images before and after it lie as far apart as a domain reaches; how much images scatter is
    said by the median distance of two that follow one another, which a change leaves alone.
    """
    if (count := len(seen)) < 2:
        return 0
    products, squares = seen.products, seen.products.diagonal()
    steps = squares[1:] + squares[:-1] - 2 * products.diagonal(1)
    usual = max(1.0, float(np.sort(steps)[(count - 2) // 2]) / 2)
    with_those_before = products.cumsum(1).diagonal()
    sums = (2 * with_those_before - squares).cumsum()[:-1]  # squares of the sums of the images before each cut
    apart = sums * _cuts(count)
    most = int(apart.argmax())
    return most + 1 if apart[most] >= usual * reach(1, limit) else 0


@lru_cache(64)
def _cuts(count: int) -> Values:
    """Return, for each place to cut so many images in two, by what the square of the sum before it is multiplied.

    That gives the squared distance of the means before and after it, over what chance explains: taken from the mean of
    all, the sum after a cut is that before it with another sign.
    """
    before = np.arange(1.0, count)
    chance = 1 / before + 1 / (count - before)
    return chance**2 / (chance + 1 / KIN_IMAGES)


def _scatters(group: Group) -> bool:
    return (group.spread or 0.0) > _WIDE


def _near(places: Sequence[Place], group: Group, limit: float) -> int:
    """Return the source if images lie within its reach, else the nearest of the places within whose reach they lie.

    Of a single image nobody knows how much its like scatters; the widest would be the nearest, so the likeliest is.
    `NEW` if they lie nowhere, however few they are.
    """
    if distances(places[:1], group)[0] < limit:  # as nearly always; then nobody asks where the others are
        return 0
    apart = distances(places, group)
    within = [index for index, distance in enumerate(apart) if distance < reach(index, limit)]
    if len(group) == 1 and len(within) > 1:
        near = [places[index] for index in within]
        return within[int(surprises(near, each(near, group.styles)).argmin())]
    return min(within, key=apart.__getitem__, default=NEW)


def _follows(places: Sequence[Place], group: Group, current: int, limit: float) -> int:
    """Return where images belong that are judged as one; see `follow`."""
    near = _near(places, group, limit)
    if near == NEW and not _is_new(places, group, limit):
        return int(_least_strange(np.array(distances(places, group))))
    if not current or near in (NEW, 0, current):
        return near
    here, there = distances([places[current], places[near]], group)
    return current if _CLEARLY_NEARER * here < there else near


def _is_new(places: Sequence[Place], group: Group, limit: float) -> bool:
    """Say whether images that lie nowhere are a domain: the fewer they are, the farther out they must lie."""
    images = len(group)
    return images >= _LEAST_OF_A_NEW_ONE and min(distances(places, group)) >= limit * max(1.0, KIN_IMAGES / images)


def _least_strange(apart: Values) -> npt.NDArray[np.int64]:
    """Return where images belong that lie nowhere (...), by their distances from each place (places, ...)."""
    return np.where(apart.min(0) < _CLEARLY_NEARER * apart[0], apart.argmin(0), 0)


def _with_strange(places: Sequence[Place], seen: Group, found: list[int], limit: float) -> list[int]:
    """Return where images belong, those too that lie nowhere (`NEW`) and are too few for a domain."""
    if NEW not in found:
        return found
    where = np.array(found)
    strange = where == NEW
    if not _is_new(places, lost := seen.only(strange), limit):
        where[strange] = _least_strange(each(places, lost.styles))
    return [int(index) for index in where]


def _divide(places: Sequence[Place], group: Group, limit: float) -> list[int]:
    """Return where each image lies on its own: of the places where it is likeliest, if it is likely there at all."""
    apart, found = each(places, group.styles), np.full(len(group), NEW)
    likeliest = surprises(places, apart).argmin(0)
    for index in set(likeliest.tolist()):
        own = likeliest == index
        for some in (own, own & (apart[index] < _STRANGE)):
            if some.any() and distances([places[index]], group.only(some))[0] < reach(index, limit):
                found[some] = index
                break
    return [int(index) for index in found]
