"""Which domains have become alike: pieces of one kind of input, or one that has moved to where another lies.

A domain that is opened by its first images may be a piece, of one class perhaps; as more is seen of each, pieces come
near one another. They are one domain when the images of one would have gone to the other.
"""

import math
from collections.abc import Sequence
from itertools import combinations

from tta_server.domains.place import Place
from tta_server.domains.route import reach


def alike(places: Sequence[Place], limit: float) -> tuple[int, int] | None:
    """Return the two domains that are most alike, if they are to be one.

    They are if the centre of one lies within reach of the other, as images do that are answered there, by the measure
    of the narrower: a wide domain does not swallow a narrow one that lies in it.

    Args:
        places: Of the known domains, the source's first: it takes in nobody.
        limit: As for `route`.

    Returns:
        Indices of `places`: of the domain that stays, which more images are of, and of the one that joins it.
    """
    pairs = [(places[one].between(places[other]), one, other) for one, other in combinations(range(1, len(places)), 2)]
    distance, one, other = min(pairs, default=(math.inf, 0, 0))
    if distance >= reach(one, limit):
        return None
    return (one, other) if places[one].images >= places[other].images else (other, one)
