"""Which domains have become alike: pieces of one kind of input, or one that has moved to where another lies.

A domain that is opened by its first images may be a piece, of one class perhaps; as more is seen of each, pieces come
near one another. They are one domain when the images of one would have gone to the other. Of two that both have seen
much, each has learnt something of its own, which would be lost: they must lie as near as clean images do to the source.
"""

from collections.abc import Collection, Sequence
from itertools import combinations

from tta_server.domains.place import MEMORY_IMAGES, Place
from tta_server.domains.route import reach


def alike(places: Sequence[Place], limit: float, moved: Collection[int] | None = None) -> tuple[int, int] | None:
    """Return the two domains that are most alike, if they are to be one.

    They are if the centre of one lies within reach of the other, as images do that are answered there, by the measure
    of the narrower: a wide domain does not swallow a narrow one that lies in it. If both have seen `MEMORY_IMAGES`, it
    must lie within the limit.

    Args:
        places: Of the known domains, the source's first: it takes in nobody.
        limit: As for `route`.
        moved: Indices of those that were elsewhere when no two were one; None compares all.

    Returns:
        Indices of `places`: of the domain that stays, which more images are of, and of the one that joins it.
    """
    found = [
        (distance, one, other)
        for one, other in combinations(range(1, len(places)), 2)
        if (moved is None or one in moved or other in moved)
        and (distance := places[one].between(places[other])) < _near_enough(places[one], places[other], limit)
    ]
    if not found:
        return None
    _, one, other = min(found)
    return (one, other) if places[one].images >= places[other].images else (other, one)


def _near_enough(one: Place, other: Place, limit: float) -> float:
    return limit if min(one.images, other.images) >= MEMORY_IMAGES else reach(1, limit)
