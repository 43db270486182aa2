"""Whether a thread gets anywhere: it says when it begins a piece of work, gets on with it, and ends it."""

import threading
from time import monotonic

_OWN = threading.local()  # the pulse of the piece of work that a thread was at last


class Pulse:
    """Know how long one piece of work has taken, and how long nothing was heard of it; one thread writes, any reads.

    A piece of work is a `with` block.
    """

    def __init__(self) -> None:
        """Start at rest."""
        self._began_s: float | None = None
        self._beat_s = 0.0

    def __enter__(self) -> None:
        """Begin a piece of work."""
        _OWN.pulse = self
        self._beat_s = self._began_s = monotonic()

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._began_s = None

    def beat(self) -> None:
        """Get on with the piece of work at hand."""
        self._beat_s = monotonic()

    def busy_s(self, since_s: float = 0.0) -> float:
        """Return how long the piece of work at hand has taken, counted from `since_s` at the earliest; 0 at rest."""
        began_s = self._began_s
        return 0.0 if began_s is None else monotonic() - max(began_s, since_s)

    def still_s(self) -> float:
        """Return how long nothing was heard of the piece of work at hand; 0 at rest."""
        return 0.0 if self._began_s is None else monotonic() - self._beat_s


def beat() -> None:
    """Say that this thread gets on with its piece of work, which has several long parts."""
    pulse: Pulse | None = getattr(_OWN, "pulse", None)
    if pulse:
        pulse.beat()
