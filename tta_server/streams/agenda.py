"""What streams wait for: a step on a window that is due, or, for a domain that has not learnt yet, a beginning.

A domain answers with the statistics of its first images until the first step, where the guard lets it. It is begun anew
whenever it has seen half as many again.
"""

import math

from tta_server.streams.schedule import Pace, Schedule
from tta_server.streams.stream import Stream

_GROWN = 1.5


class Agenda:
    """Remember by stream what is to be done next; changes no stream."""

    def __init__(self, pace: Pace) -> None:
        """Take when windows are learnt from."""
        self._pace = pace
        self._windows = Schedule()
        self._beginnings = Schedule()

    def settle(self, stream: Stream) -> None:
        """See anew what a stream waits for."""
        self._windows.set(stream.name, self._pace.due_s(stream.window) if stream.learns_later else None)
        self._beginnings.set(stream.name, stream.window.began_s if self.has_grown(stream) else None)

    def drop(self, name: str) -> None:
        """Forget a stream."""
        self._windows.set(name, None)
        self._beginnings.set(name, None)

    def due_s(self) -> float | None:
        """Return when something is due, on the monotonic clock; None if nothing is."""
        due = (self._windows.next(), self._beginnings.next())
        return min((one[0] for one in due if one), default=None)

    def window(self, now_s: float) -> str | None:
        """Return whose window is due longest at a time; None if none is."""
        due = self._windows.next()
        return due[1] if due and due[0] <= now_s else None

    def passed(self, name: str) -> None:
        """Do not count a stream's window as due until `settle`."""
        self._windows.set(name, None)

    def beginning(self) -> str | None:
        """Return which domain waits longest to be begun, and count it as begun until `settle`; None if none does."""
        if due := self._beginnings.next():
            self._beginnings.set(due[1], None)
        return due[1] if due else None

    def has_grown(self, stream: Stream) -> bool:
        """Say whether a domain is to be begun with what waits in its window."""
        seen, least = len(stream.window), 1 + stream.method.adapter.batch_coupled
        grown = stream.begun < self._pace.rows and seen >= max(math.ceil(_GROWN * stream.begun), least)
        return stream.is_to_begin and grown
