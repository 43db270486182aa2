"""Whether the device thread gets anywhere: it says when it begins and ends a piece of work."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pulse:
    """Know how long one piece of work has taken; one thread writes, any may read."""

    def __init__(self) -> None:
        """Start at rest."""
        self._began_s: float | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Be at one piece of work."""
        self._began_s = time.monotonic()
        try:
            yield
        finally:
            self._began_s = None

    def busy_s(self, since_s: float = 0.0) -> float:
        """Return how long the piece of work at hand has taken, counted from `since_s` at the earliest; 0 at rest."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - max(began_s, since_s)
