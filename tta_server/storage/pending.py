"""What waits to be written: a data structure without a lock or a clock of its own."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from tta_server.names import stream_of_domain
from tta_server.storage.audit import Entry

Make = Callable[[], bytes]
"""Returns the bytes of a file, later and on another thread."""

T = TypeVar("T")

_MAX_LINES = 100_000
_MAX_WINDOWS = 64


class UnsavedState(NamedTuple):
    """A stream's state; `since_s` is when the first that was not written came."""

    version: int
    make: Make
    since_s: float
    generation: int = 0


class KeptWindow(NamedTuple):
    """A window that a stream learnt from."""

    stream: str
    digest: str
    make: Make
    generation: int = 0


class Snapshot(NamedTuple):
    """A snapshot that somebody waits for."""

    stream: str
    version: int
    make: Make
    note: str
    generation: int
    future: "Future[str]"


class Erasure(NamedTuple):
    """A stream that is to be erased: who waits for it, nobody once they were told why it failed."""

    generation: int
    futures: list["Future[None]"]


@dataclass
class Pending:
    """Hold what waits, in order and within limits.

    Attributes:
        states: The newest of each stream.
        lines: Of the audit log, oldest first.
        windows: Oldest first.
        snapshots: Oldest first.
        erasures: By stream.
        lost: Lines and windows given up because there were too many.
    """

    states: dict[str, UnsavedState] = field(default_factory=dict)
    lines: deque[Entry] = field(default_factory=deque)
    windows: deque[KeptWindow] = field(default_factory=deque)
    snapshots: list[Snapshot] = field(default_factory=list)
    erasures: dict[str, Erasure] = field(default_factory=dict)
    lost: int = 0

    def __bool__(self) -> bool:
        return bool(self.states or self.lines or self.windows or self.urgent or self.erasures)

    @property
    def urgent(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self.snapshots or any(erasure.futures for erasure in self.erasures.values()))

    def missing(self) -> str:
        """Return what would be lost now, for a person; an empty string if nothing would."""
        counts = {
            "{} erasures": len(self.erasures),
            "{} snapshots": len(self.snapshots),
            "{} kept windows": len(self.windows),
            "{} lines of the audit log": len(self.lines),
            "the newest states of {} streams": len(self.states),
        }
        return ", ".join(text.format(count) for text, count in counts.items() if count)

    def save(self, name: str, state: UnsavedState) -> None:
        """Add a state, in place of an older one."""
        older = self.states.get(name)
        self.states[name] = state._replace(since_s=older.since_s) if older else state

    def record(self, entry: Entry) -> None:
        """Add a line."""
        self._add(self.lines, entry, _MAX_LINES)

    def keep(self, window: KeptWindow) -> None:
        """Add a window."""
        self._add(self.windows, window, _MAX_WINDOWS)

    def forget(self, name: str) -> None:
        """Forget the state and the windows of a stream."""
        self.states.pop(name, None)
        self.windows = deque(window for window in self.windows if window.stream != name)

    def erase(self, name: str, generation: int, future: "Future[None]") -> None:
        """Add an erasure, and forget what came of the stream before it."""
        self.forget(name)
        before = self.erasures.get(name)
        self.erasures[name] = Erasure(generation, [*(before.futures if before else ()), future])

    def erases(self, name: str) -> bool:
        """Say whether a stream or domain is to be erased; a domain is with its stream."""
        return name in self.erasures or stream_of_domain(name) in self.erasures

    def begin_erasure(self, name: str) -> Erasure | None:
        """Return an erasure and who waits for it, nobody waits any more; None if it was given up meanwhile."""
        if erasure := self.erasures.get(name):
            self.erasures[name] = Erasure(erasure.generation, [])
        return erasure

    def end_erasure(self, name: str) -> None:
        """Forget an erasure, unless it was asked for again or given up meanwhile."""
        if (erasure := self.erasures.get(name)) and not erasure.futures:
            del self.erasures[name]

    def refuse(self, again: bool) -> "list[Future[Any]]":
        """Return who waits for an answer; nobody does any more. Erasures are tried `again` or forgotten."""
        futures: list[Future[Any]] = [snapshot.future for snapshot in self.snapshots]
        futures += [future for erasure in self.erasures.values() for future in erasure.futures]
        self.snapshots = []
        self.erasures = {name: Erasure(one.generation, []) for name, one in self.erasures.items() if again}
        return futures

    def kept(self) -> tuple[list[KeptWindow], list[Entry], dict[str, UnsavedState]]:
        """Return the windows, lines and states as they are now, but for streams that are yet to be erased."""
        windows = [window for window in self.windows if not self.erases(window.stream)]
        return windows, list(self.lines), {name: s for name, s in self.states.items() if not self.erases(name)}

    def wrote_lines(self, lines: Sequence[Entry]) -> None:
        """Forget lines; some may have been given up meanwhile."""
        done = set(map(id, lines))
        while self.lines and id(self.lines[0]) in done:
            self.lines.popleft()

    def wrote_window(self, window: KeptWindow) -> None:
        """Forget a window, unless it was given up meanwhile."""
        with contextlib.suppress(ValueError):
            self.windows.remove(window)

    def wrote_snapshot(self, snapshot: Snapshot) -> None:
        """Forget a snapshot, unless it was given up meanwhile."""
        with contextlib.suppress(ValueError):
            self.snapshots.remove(snapshot)

    def wrote_state(self, name: str, state: UnsavedState) -> None:
        """Forget a state, unless a newer one came meanwhile."""
        if self.states.get(name) is state:
            del self.states[name]

    def _add(self, waiting: deque[T], item: T, most: int) -> None:
        waiting.append(item)
        if len(waiting) > most:
            waiting.popleft()
            self.lost += 1


def settle(futures: "Iterable[Future[T]]", result: T) -> None:
    """Tell those who still wait what they have waited for."""
    for future in futures:
        with contextlib.suppress(InvalidStateError):  # told already, or not waited for any more
            future.set_result(result)


def fail(futures: "Iterable[Future[Any]]", error: BaseException) -> None:
    """Tell those who still wait why they wait in vain."""
    for future in futures:
        with contextlib.suppress(InvalidStateError):
            future.set_exception(error)


def together(futures: Sequence["Future[None]"]) -> "Future[None]":
    """Return what is done once all of these are; if some fail, with the error of one."""
    whole: Future[None] = Future()
    if not futures:
        whole.set_result(None)
    left, turn = len(futures), threading.Lock()

    def ended(_: "Future[None]") -> None:
        nonlocal left
        with turn:
            left -= 1
            if left:
                return
        if error := next(filter(None, (each.exception() for each in futures)), None):
            fail([whole], error)
        else:
            settle([whole], None)

    for each in futures:
        each.add_done_callback(ended)
    return whole
