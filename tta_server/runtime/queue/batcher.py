"""Which waiting requests go into the next forward: a data structure without threads or a clock."""

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What the batcher must know of a request."""

    @property
    def rows(self) -> int:
        """Images in it, >= 1."""
        ...

    @property
    def arrived_s(self) -> float:
        """When it came, on any monotonic clock."""
        ...


J = TypeVar("J", bound=Waiting)

_RECENT_GROUPS = 32
_RECENT_S = 10.0
_MOST_RETRY_S = 60


class Batcher(Generic[J]):
    """Keep requests in order of arrival and group those that may share a forward.

    The request that waits longest decides the group, so nothing starves.
    """

    def __init__(self, max_rows: int, max_delay_s: float = 0.0) -> None:
        """Start empty.

        Args:
            max_rows: Most images in a group; a larger request makes a group alone.
            max_delay_s: How long a group that is not full waits for company; 0 never waits.
        """
        self._max_rows = max_rows
        self._max_delay_s = max_delay_s
        self._jobs: deque[J] = deque()
        self._taken: deque[tuple[float, int]] = deque(maxlen=_RECENT_GROUPS)  # when, and how many images
        self.rows = 0

    def __iter__(self) -> Iterator[J]:
        return iter(self._jobs)

    def put(self, job: J) -> None:
        """Add a request at the end."""
        self._jobs.append(job)
        self.rows += job.rows

    def remove(self, job: J) -> None:
        """Drop a request whose caller no longer waits, if it has not been taken."""
        if job in self._jobs:
            self._jobs.remove(job)
            self.rows -= job.rows

    def take(self, now_s: float, key: Callable[[J], Hashable]) -> list[J]:
        """Remove and return the next group, in order of arrival; empty if nothing is due.

        Args:
            now_s: The time, on the clock of `arrived_s`.
            key: Requests with equal keys may share a forward.
        """
        if not self._jobs:
            return []
        first = key(self._jobs[0])
        group: list[J] = []
        left: deque[J] = deque()
        rows = 0
        closed = False  # a request may not overtake an older one of its own group
        for job in self._jobs:
            if not closed and (not group or key(job) == first):
                if not group or rows + job.rows <= self._max_rows:
                    group.append(job)
                    rows += job.rows
                    continue
                closed = True
            left.append(job)
        full = closed or rows >= self._max_rows
        if not full and now_s < group[0].arrived_s + self._max_delay_s:
            return []
        self._jobs = left
        self.rows -= rows
        self._taken.append((now_s, rows))
        return group

    def due_s(self) -> float | None:
        """Return when the next group is due at the latest, on the clock of `arrived_s`; None if nothing waits."""
        return self._jobs[0].arrived_s + self._max_delay_s if self._jobs else None

    def waits(self, now_s: float) -> bool:
        """Say whether requests wait for the device, on the clock of `arrived_s`, and not for company alone."""
        due_s = self.due_s()
        return self.rows >= self._max_rows or (due_s is not None and due_s <= now_s)

    def clear(self) -> list[J]:
        """Remove and return everything."""
        jobs, self._jobs, self.rows = list(self._jobs), deque(), 0
        return jobs

    def emptied_in_s(self, now_s: float) -> int:
        """Return in how many seconds, 1 to 60, what waits will have been taken at the pace of late."""
        recent = [(taken_s, rows) for taken_s, rows in self._taken if now_s - taken_s < _RECENT_S]
        if not recent:
            return 1
        pace = sum(rows for _, rows in recent) / max(now_s - recent[0][0], 1e-3)
        return min(_MOST_RETRY_S, max(1, math.ceil(self.rows / pace)))
