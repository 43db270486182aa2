"""Which windows are due: full, or old enough to be learnt from as they are. A data structure without a clock."""

import heapq
from dataclasses import dataclass

from tta_server.streams.window import Window

_MOST_FULL_WINDOWS = 4
_MOST_STALE = 64


@dataclass(frozen=True)
class Pace:
    """When a window is learnt from.

    Attributes:
        rows: Images of a full window.
        least_rows: Images that are enough once a window is old.
        min_age_s: Least age of a window; images that come meanwhile replace older ones.
        max_age_s: Age from which a window need not be full; 0 waits for ever.
    """

    rows: int
    least_rows: int
    min_age_s: float = 0.0
    max_age_s: float = 0.0

    def due_s(self, window: Window) -> float | None:
        """Return when `window` may be learnt from as it is; None if it needs more images first."""
        if len(window) >= self.rows:
            return window.began_s + self.min_age_s
        if self.max_age_s and len(window) >= self.least_rows:
            return window.began_s + self.max_age_s
        return None

    def surplus(self, window: Window, request_rows: int, now_s: float) -> int:
        """Return how many of the oldest images are too many: newer ones say more of what comes.

        Args:
            window: After images were let in.
            request_rows: How many were offered at once.
            now_s: The time, on the clock of the window.
        """
        if now_s < window.began_s + self.min_age_s:
            return max(0, len(window) - self.rows)
        most = _MOST_FULL_WINDOWS * max(self.rows, request_rows)
        return -(-max(0, len(window) - most) // self.rows) * self.rows


class Schedule:
    """Remember by stream when its window is due; the one that is due longest comes first."""

    def __init__(self) -> None:
        """Start empty."""
        self._due_s: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []

    def set(self, stream: str, due_s: float | None) -> None:
        """Say when a stream's window is due, or that it is not."""
        if due_s is None:
            self._due_s.pop(stream, None)
        elif self._due_s.get(stream) != due_s:
            self._due_s[stream] = due_s
            heapq.heappush(self._order, (due_s, stream))
            if len(self._order) > 2 * len(self._due_s) + _MOST_STALE:
                self._order = [(when_s, name) for name, when_s in self._due_s.items()]
                heapq.heapify(self._order)

    def next(self) -> tuple[float, str] | None:
        """Return when the next window is due and whose it is; None if there is none."""
        while self._order and self._due_s.get(self._order[0][1]) != self._order[0][0]:
            heapq.heappop(self._order)  # changed since
        return self._order[0] if self._order else None
