"""Where a stream that tells domains apart has been: a value."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from tta_server.domains.place import Values
from tta_server.domains.route import RECENT
from tta_server.names import number_of


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """Where a stream has been.

    Attributes:
        recent: Whitened styles of its last images, all since the last change (n, D), n <= 16, float64.
        current: The domain that its last image belonged to; empty if it was at home.
        next: Number of the next domain that is opened.
        domains: Numbers of the domains that there are, the oldest first.
        distance: Of what it saw last to the place of the domain that it was taken for, see `Place`; None before.
        from_source: Of the same to the source's place.
    """

    recent: Values
    current: str = ""
    next: int = 1
    domains: tuple[int, ...] = ()
    distance: float | None = None
    from_source: float | None = None

    @classmethod
    def start(cls, dimensions: int) -> "Whereabouts":
        """Return those of a stream that has seen nothing: it is at home."""
        return cls(np.zeros((0, dimensions)))

    def after(self, recent: Values) -> "Whereabouts":
        """Return them once these are the last images (n, D), those after the last change."""
        return replace(self, recent=recent)

    def seen(self, styles: Values) -> Values:
        """Return the last images, these among them, that images of these styles are judged with if they are few."""
        return np.concatenate([self.recent, styles[-RECENT:]])[-RECENT:]

    def home(self) -> "Whereabouts":
        """Return those of a stream that has forgotten its domains; their numbers are not used again."""
        return Whereabouts(self.recent[:0], next=self.next)

    def at(self, current: str) -> "Whereabouts":
        """Return them once it is said which domain the last image belonged to."""
        return replace(self, current=current)

    def arrived(self, current: str, distance: float, from_source: float) -> "Whereabouts":
        """Return them once it is said where the last image belonged, and how far it lies from there and the source."""
        return replace(self, current=current, distance=distance, from_source=from_source)

    def knowing(self, domains: Iterable[str]) -> "Whereabouts":
        """Return them with these domains, of which some may have been opened after they were written."""
        numbers = sorted({*self.domains, *map(number_of, domains)})
        return replace(self, next=max([self.next, *(number + 1 for number in numbers)]), domains=tuple(numbers))

    def opened(self) -> "Whereabouts":
        """Return them once a domain was opened."""
        return replace(self, next=self.next + 1, domains=(*self.domains, self.next))

    def without(self, domain: str) -> "Whereabouts":
        """Return them once a domain is gone."""
        return replace(self, domains=tuple(one for one in self.domains if one != number_of(domain)))
