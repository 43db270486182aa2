"""What streams wait for: a step on a window that is due, or something beside steps.

A domain answers with the statistics of its first images until the first step, where the guard lets it. It is begun anew
whenever it has seen half as many again. And the guard looks at what is answered to images that no window takes, such as
those of a camera that shows the same few again and again: as many at a time as make a window.
"""

import math

from tta_server.streams.lesson import BesideSteps
from tta_server.streams.schedule import Pace, Schedule
from tta_server.streams.stream import Stream
from tta_server.streams.window import Sample

_GROWN = 1.5


class Agenda:
    """Remember by stream what is to be done next; changes no stream."""

    def __init__(self, pace: Pace) -> None:
        """Take when windows are learnt from."""
        self._pace = pace
        self._windows = Schedule()
        self._beside = Schedule()

    def settle(self, stream: Stream) -> None:
        """See anew what a stream waits for."""
        self._windows.set(stream.name, self._pace.due_s(stream.window) if stream.learns_later else None)
        purpose = self.beside_steps(stream)
        since_s = (stream.window if purpose == "begin" else stream.again).began_s
        self._beside.set(stream.name, since_s if purpose else None)

    def drop(self, name: str) -> None:
        """Forget a stream."""
        self._windows.set(name, None)
        self._beside.set(name, None)

    def due_s(self) -> float | None:
        """Return when something is due, on the monotonic clock; None if nothing is."""
        due = [one for one in (self._windows.next(), self._beside.next()) if one]
        return min(due)[0] if due else None

    def window(self, now_s: float) -> str | None:
        """Return whose window is due longest at a time; None if none is."""
        due = self._windows.next()
        return due[1] if due and due[0] <= now_s else None

    def passed(self, name: str) -> None:
        """Do not count a stream's window as due until `settle`."""
        self._windows.set(name, None)

    def beside(self) -> str | None:
        """Return who waits longest for something beside steps, and count that as done until `settle`; None if none."""
        if due := self._beside.next():
            self._beside.set(due[1], None)
        return due[1] if due else None

    def beside_steps(self, stream: Stream) -> BesideSteps | None:
        """Say what a stream waits for beside a step: to be begun, or that the guard looks at what no window takes."""
        if self._has_grown(stream):
            return "begin"
        return "again" if stream.is_judged and len(stream.again) >= self._pace.rows else None

    def take(self, stream: Stream) -> list[Sample]:
        """Return the images with which what a stream waits for beside a step is done; those to begin with stay."""
        begins = self._has_grown(stream)
        return list(stream.window)[: self._pace.rows] if begins else stream.again.take(self._pace.rows)

    def _has_grown(self, stream: Stream) -> bool:
        seen, least = len(stream.window), 1 + stream.method.adapter.batch_coupled
        grown = stream.begun < self._pace.rows and seen >= max(math.ceil(_GROWN * stream.begun), least)
        return stream.is_to_begin and grown
