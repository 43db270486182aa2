"""Where a stream is among its domains: the part of the prototype that needs no network."""

import torch
from torch import Tensor

from tta_server.domains.merge import alike
from tta_server.domains.place import Place
from tta_server.domains.route import NEW, RECENT, follow, is_few, route, settled
from tta_server.domains.space import StyleSpace

SOURCE = 0


class Routing:
    """The places of one stream's domains.

    Attributes:
        opened: Domains opened so far.
        merged: How many of them have joined another.
        asked: By number, in order, when each known domain was last asked; the source is `SOURCE`.
    """

    def __init__(self, space: StyleSpace, most: int) -> None:
        """Begin at home."""
        self.opened = 0
        self.merged = 0
        self.asked = {SOURCE: 0}
        self._places = {SOURCE: Place.source(len(space.mean), space.images)}
        self._limit = space.limit
        self._most = most
        self._recent = torch.zeros(0, len(space.mean), dtype=torch.float64)
        self._current = SOURCE
        self._requests = 0

    def where(self, styles: Tensor) -> list[int]:
        """Return the number of each image's domain, and learn where domains lie; opens one where none fits."""
        self._requests += 1
        self._recent = settled(torch.cat([self._recent, styles])[-RECENT:], self._limit)
        numbers, places = list(self._places), list(self._places.values())
        if is_few(len(styles)):
            here = follow(places, self._recent, numbers.index(self._current), self._limit)
            indices = [here] * len(styles)
        else:
            indices = route(places, styles, self._limit)
        found = [NEW if index == NEW else numbers[index] for index in indices]
        for number in set(found) - {SOURCE, NEW}:
            own = torch.tensor([each == number for each in found])
            self._places[number] = self._places[number].seen(styles[own])
        if NEW in found:
            new = torch.tensor([each == NEW for each in found])
            number = self._open(self._recent if is_few(len(styles)) else styles[new], set(found))
            found = [number if each == NEW else each for each in found]
        self.asked |= dict.fromkeys(found, self._requests)
        self._current = found[-1]
        return found

    def merge(self) -> tuple[int, int] | None:
        """Make one of two domains that have become alike; returns their numbers, the one that stays first."""
        pair = alike(list(self._places.values()), self._limit)
        if pair is None:
            return None
        stays, joins = (list(self._places)[index] for index in pair)
        self._places[stays] = self._places[stays].merged(self._places.pop(joins))
        self.asked[stays] = max(self.asked[stays], self.asked.pop(joins))
        self._current = stays if self._current == joins else self._current
        self.merged += 1
        return stays, joins

    def _open(self, styles: Tensor, busy: set[int]) -> int:
        if len(self._places) > self._most:
            oldest = min(self._places.keys() - {SOURCE} - busy, key=self.asked.__getitem__, default=None)
            if oldest is None:
                return SOURCE
            del self._places[oldest], self.asked[oldest]
        self.opened += 1
        self._places[self.opened] = Place.first(styles)
        return self.opened
