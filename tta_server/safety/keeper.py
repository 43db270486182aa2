"""One thread that writes, so that the device thread never waits for a disk.

Within a round the order is: erasures and snapshots; kept windows; audit lines in the order they came; the newest state
of each stream. States wait for the lines: when the state of version v is on disk, so is every line up to v. A disk that
fails stops nothing: what could not be written stays in memory, of states the newest, and is tried again.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from tta_server.safety.audit import Audit, Entry
from tta_server.safety.rounds import Rounds
from tta_server.safety.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

Make = Callable[[], bytes]

_MAX_LINES = 100_000
_MAX_WINDOWS = 64


class _State(NamedTuple):
    version: int
    make: Make
    since_s: float


class _Window(NamedTuple):
    stream: str
    digest: str
    make: Make


class _Task(NamedTuple):
    run: Callable[[], Any]
    future: "Future[Any]"


class Keeper:
    """Take what has to be kept and write it later.

    Every method may be called from any thread, and none but `read`, `flush` and `close` waits for the disk.

    Attributes:
        lost: Audit lines and windows given up because too many waited for a disk that fails.
    """

    def __init__(self, store: Store, audit: Audit, interval_s: float = 1.0, retry_s: float = 1.0) -> None:
        """Prepare; nothing is written before `start`.

        Args:
            store: Where states, snapshots and windows go.
            audit: Where lines go.
            interval_s: Shortest time between two rounds; what comes meanwhile is written together. 0 writes at once.
            retry_s: Wait after a failure; doubled with each further one, up to a minute.
        """
        self.lost = 0
        self._store = store
        self._audit = audit
        self._rounds = Rounds(interval_s, retry_s)
        self._changed = threading.Condition()
        self._states: dict[str, _State] = {}
        self._lines: deque[Entry] = deque()
        self._windows: deque[_Window] = deque()
        self._tasks: list[_Task] = []
        self._deleted: dict[str, int] = {}  # erasures that wait, by stream
        self._busy = False
        self._hurry = 0  # how many wait in `flush`
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Take the store for this process and start to write.

        Raises:
            ValueError: If another server has it or it cannot be reached.
            OSError: If the folder cannot be written.
        """
        self._store.claim()
        self._thread.start()

    def save(self, name: str, version: int, make: Make) -> None:
        """Keep a stream's state; of several that wait, the newest is written.

        Args:
            name: The stream.
            version: Version of the state.
            make: Returns the file. Runs later, on the writer's thread; on the caller's if `read` comes first.
        """
        with self._changed:
            waiting = self._states.get(name)
            self._states[name] = _State(version, make, waiting.since_s if waiting else time.monotonic())
            self._changed.notify_all()

    def record(self, entry: Entry) -> None:
        """Append a line to the audit log, before any state that is saved later."""
        self._append(self._lines, entry, _MAX_LINES)

    def keep_input(self, name: str, digest: str, make: Make) -> None:
        """Keep a window that a stream learnt from, before any line that is recorded later."""
        self._append(self._windows, _Window(name, digest, make), _MAX_WINDOWS)

    def snapshot(self, name: str, version: int, make: Make, note: str = "") -> "Future[str]":
        """Keep a snapshot; returns its id to come, or the OSError."""
        return self._do(lambda: self._store.snapshot(name, version, make(), note))

    def read(self, name: str) -> bytes | None:
        """Return the newest state of a stream, written or still waiting to be; None if there is none."""
        with self._changed:
            state, deleted = self._states.get(name), name in self._deleted
        if state:
            return state.make()
        return None if deleted else self._store.load(name)

    def delete(self, name: str) -> "Future[None]":
        """Forget what waits of a stream and erase its files; returns when that is done, or the OSError."""
        with self._changed:
            self._states.pop(name, None)
            self._windows = deque(window for window in self._windows if window.stream != name)
            self._deleted[name] = self._deleted.get(name, 0) + 1
        return self._do(lambda: self._erase(name))

    def flush(self, timeout_s: float) -> bool:
        """Write everything that waits, now; return whether that was done in time."""
        with self._changed:
            self._hurry += 1
            self._rounds.due_s = 0.0
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not (self._waits or self._busy), timeout_s)
            self._hurry -= 1
        return done

    def close(self, timeout_s: float = 20.0) -> bool:
        """Write everything that waits and end; return whether that was done in time."""
        done = not self._thread.is_alive() or self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        for task in self._tasks:
            task.future.set_exception(OSError("the store was closed before this was written"))
        if not done:
            log.error("the newest states of %d streams are lost: %s", len(self._states), self.trouble or "out of time")
        self._store.release()
        return done

    @property
    def failures(self) -> int:
        """Rounds of writing that failed since the start."""
        return self._rounds.failures

    @property
    def trouble(self) -> str:
        """What is wrong with the disk, or an empty string."""
        return self._rounds.trouble

    @property
    def age_s(self) -> float:
        """Time since a round last succeeded, or since the start; grows while nothing happens, too."""
        return time.monotonic() - self._rounds.succeeded_s

    @property
    def behind_s(self) -> float:
        """How long the oldest unwritten state has waited; 0 if all are written. The one to alert on."""
        with self._changed:
            return max((time.monotonic() - state.since_s for state in self._states.values()), default=0.0)

    @property
    def _waits(self) -> bool:
        return bool(self._states or self._lines or self._windows or self._tasks)

    def _append(self, waiting: deque[T], item: T, most: int) -> None:
        with self._changed:
            waiting.append(item)
            if len(waiting) > most:
                waiting.popleft()
                self.lost += 1
            self._changed.notify_all()

    def _do(self, run: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                future.set_exception(OSError("the store is closed"))
            else:
                self._tasks.append(_Task(run, future))
                self._changed.notify_all()
        return future

    def _erase(self, name: str) -> None:
        try:
            self._store.delete(name)
        finally:
            with self._changed:
                self._deleted[name] -= 1
                if not self._deleted[name]:
                    del self._deleted[name]

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._tasks or (self._waits and time.monotonic() >= self._rounds.due_s)):
                    wait_s = self._rounds.due_s - time.monotonic() if self._waits else None
                    self._changed.wait(wait_s)
                if self._closed:
                    return
                self._busy = True
                tasks, self._tasks = self._tasks, []
            self._round(tasks)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _round(self, tasks: list[_Task]) -> None:
        for task in tasks:
            _settle(task)
        try:
            self._write()
        except Exception as error:  # a remote store raises what it likes
            with self._changed:
                self._rounds.fail(error)
        else:
            with self._changed:
                self._rounds.succeed(hurry=self._hurry > 0)

    def _write(self) -> None:
        with self._changed:  # at one moment: no state here is newer than the lines
            windows, lines, states = list(self._windows), list(self._lines), dict(self._states)
        failed = self._write_windows(windows)
        self._audit.append(lines)
        with self._changed:
            _remove(self._lines, lines)
        for name, state in states.items():
            try:
                self._store.save(name, state.version, state.make())
            except Exception as error:  # the next stream's may still be written
                failed = error
            else:
                with self._changed:
                    if self._states.get(name) is state:
                        del self._states[name]
        if failed:
            raise failed

    def _write_windows(self, windows: list[_Window]) -> Exception | None:
        """Write what fits: windows are large, and states must not wait for them."""
        for window in windows:
            try:
                self._store.keep_input(window.stream, window.digest, window.make())
            except Exception as error:
                return error
            with self._changed:
                _remove(self._windows, [window])
        return None


def _remove(waiting: deque[T], written: list[T]) -> None:
    """Take what was written from the left of a queue, from which some may have been dropped meanwhile."""
    done = set(map(id, written))
    while waiting and id(waiting[0]) in done:
        waiting.popleft()


def _settle(task: _Task) -> None:
    if not task.future.set_running_or_notify_cancel():
        return
    try:
        task.future.set_result(task.run())
    except Exception as error:
        task.future.set_exception(error)
