"""Where images belong, worked out one place and one image at a time; slow, and written for nothing but to be read."""

import math
from itertools import pairwise

from torch import Tensor

from tta_server.domains.place import Place

NEW = -1


def cut(styles: Tensor, limit: float) -> list[Tensor]:
    """Return images cut where their means before and after lie farthest apart, and each of both parts likewise."""
    n, apart, steps = len(styles), [], sorted(float((b - a).square().mean()) for a, b in pairwise(styles))
    if n < 2:
        return [styles]
    for before in range(1, n):
        gap = (styles[:before].mean(0) - styles[before:].mean(0)).square().mean()
        apart.append(float(gap) / (1 / before + 1 / (n - before) + 1 / 16))
    if max(apart) < 1.75 * limit * max(1.0, steps[(n - 2) // 2] / 2):
        return [styles]
    change = apart.index(max(apart)) + 1
    return [*cut(styles[:change], limit), *cut(styles[change:], limit)]


def spread(styles: Tensor) -> float | None:
    return float(styles.var(0).mean()) if len(styles) > 1 else None


def distance(place: Place, styles: Tensor) -> float:
    own, gap = spread(styles), (styles[:, None] - styles).square().mean(2)
    pictures = len(styles) ** 2 / float((1 - gap / 0.5).clamp(0, 1).sum())
    usual = place.spread if own is None else max(1.0, min(own, place.spread))
    apart = float((styles.mean(0) - place.centre).square().mean())
    return apart / (usual * (1 / pictures + 1 / place.images + 1 / 16))


def alone(place: Place, image: Tensor) -> float:
    return float((image - place.centre).square().mean()) / (place.spread * (1 + 1 / place.images))


def nearest(places: list[Place], styles: Tensor, limit: float) -> int:
    within = [i for i, place in enumerate(places) if distance(place, styles) < limit * (1.75 if i else 1)]
    if 0 in within:
        return 0
    if len(styles) == 1:
        return min(within, key=lambda i: surprise(places[i], styles[0]), default=NEW)
    return min(within, key=lambda i: distance(places[i], styles), default=NEW)


def surprise(place: Place, image: Tensor) -> float:
    return alone(place, image) + math.log(place.spread * (1 + 1 / place.images))


def divided(places: list[Place], styles: Tensor, limit: float) -> list[int]:
    likeliest = [min(range(len(places)), key=lambda i: surprise(places[i], image)) for image in styles]
    found = [NEW] * len(styles)
    for i, place in enumerate(places):
        rows = [row for row, one in enumerate(likeliest) if one == i]
        for some in (rows, [row for row in rows if alone(place, styles[row]) < 2]):
            if some and distance(place, styles[some]) < limit * (1.75 if i else 1):
                found = [i if row in some else one for row, one in enumerate(found)]
                break
    return found


def with_strange(places: list[Place], styles: Tensor, found: list[int], limit: float) -> list[int]:
    strange = [row for row, one in enumerate(found) if one == NEW]
    if not strange or is_new(places, styles[strange], limit):
        return found
    apart = [[alone(place, image) for place in places] for image in styles]
    return [clearly(apart[row]) if one == NEW else one for row, one in enumerate(found)]


def is_new(places: list[Place], styles: Tensor, limit: float) -> bool:
    n = len(styles)
    return n >= 4 and min(distance(place, styles) for place in places) >= limit * max(1, 16 / n)


def clearly(apart: list[float]) -> int:
    return apart.index(min(apart)) if min(apart) < 0.75 * apart[0] else 0


def route(places: list[Place], styles: Tensor, limit: float) -> list[int]:
    found = []
    for part in cut(styles, limit):
        wide = (spread(part) or 0) > 2
        found += divided(places, part, limit) if wide else [nearest(places, part, limit)] * len(part)
    return with_strange(places, styles, found, limit)


def follow(places: list[Place], styles: Tensor, current: int, limit: float) -> list[int]:
    found = []
    for part in cut(styles, limit):
        if (spread(part) or 0) > 2:
            found += with_strange(places, part, divided(places, part, limit), limit)
            continue
        near, apart = nearest(places, part, limit), [distance(place, part) for place in places]
        if near == NEW and not is_new(places, part, limit):
            near = clearly(apart)
        elif current and near > 0 and 0.75 * apart[current] < apart[near]:
            near = current
        found += [near] * len(part)
    return found
