"""One thread that writes, with a few that help it, so that the device thread never waits for a disk.

Within a round the order is: erasures and snapshots; kept windows; audit lines in the order they came; the newest state
of each stream. States wait for the lines: when the state of version v is on disk, so is every line up to v. A disk that
fails stops nothing: what could not be written (of states, the newest) stays in memory and is tried again.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from tta_server.names import stream_of_domain
from tta_server.storage.audit import Audit, Entry
from tta_server.storage.eraser import Eraser
from tta_server.storage.files import tried
from tta_server.storage.owners import LostError
from tta_server.storage.pending import KeptWindow, Make, Pending, Snapshot, UnsavedState, fail, settle
from tta_server.storage.rounds import Rounds
from tta_server.storage.saving import enough
from tta_server.storage.silence import Silence
from tta_server.storage.store import Store
from tta_server.storage.writers import take, work_off

log = logging.getLogger(__name__)

_CLOSED = "the store is closed"
_HOLD_EVERY_S = 30.0  # an idle server looks that often whether the place is still its own


class Keeper:
    """Take what has to be kept and write it later.

    Every method may be called from any thread, and none but `read`, `flush` and `close` waits for the disk.
    """

    def __init__(self, store: Store, audit: Audit, interval_s: float = 1.0, retry_s: float = 1.0) -> None:
        """Prepare; nothing is written before `start`.

        Args:
            store: Where states, snapshots and windows go.
            audit: Where lines go.
            interval_s: Shortest time between two rounds; what comes meanwhile is written together. 0 writes at once.
            retry_s: Wait after a failure; doubled with each further one, up to a minute.
        """
        self.shared = bool(store.replica)
        self._store = store
        self._audit = audit
        self._rounds = Rounds(interval_s, retry_s)
        self._silence = Silence()
        self._changed = threading.Condition()
        self._pending = Pending()
        self._eraser = Eraser(store, self._pending, self._silence, self._changed, retry_s)
        self._busy = False
        self._missing = ""  # what had not been written when it was closed
        self._hurry = 0  # how many wait until it is written
        self._closed = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> list[str]:
        """Take the store for this process and start to write.

        Returns:
            The streams that a state or snapshot is kept of, sorted.

        Raises:
            ValueError: If another server has it or it cannot be reached.
            OSError: If the folder cannot be written.
        """
        kept = self._store.claim()
        for name in self._store.unerased:
            self._pending.erase(name, 0, Future())
        self._thread.start()
        about = self._ended, "what is to be kept waits in memory"
        threading.Thread(target=self._silence.watch, args=about, name="keeper's watch", daemon=True).start()
        return kept

    def save(self, name: str, version: int, make: Make, generation: int = 0) -> None:
        """Keep a stream's state; of several that wait, the newest is written.

        Args:
            name: The stream.
            version: Version of the state.
            make: Returns the file. Runs later, on a thread that writes; on the caller's if `read` comes first.
            generation: With which this server holds the stream; 0 where no other can. If it has lost the stream when
                the state would be written, the state is dropped.
        """
        with self._changed:
            self._pending.save(name, UnsavedState(version, make, time.monotonic(), generation))
            self._changed.notify_all()

    def record(self, entry: Entry) -> None:
        """Append a line to the audit log, before any state that is saved later.

        Raises:
            TypeError: If it holds what is no JSON; in the queue it would hold up every line behind it.
            ValueError: Likewise.
        """
        entry.as_line()
        with self._changed:
            self._pending.record(entry)
            self._changed.notify_all()

    def keep_input(self, name: str, digest: str, make: Make, generation: int = 0) -> None:
        """Keep a window that a stream learnt from, before any line that is recorded later; see `save`."""
        with self._changed:
            self._pending.keep(KeptWindow(name, digest, make, generation))
            self._changed.notify_all()

    def snapshot(self, name: str, version: int, make: Make, note: str = "", generation: int = 0) -> "Future[str]":
        """Keep a snapshot; returns its id to come, or the OSError.

        Raises:
            OSError: If the keeper is closed.
        """
        future: Future[str] = Future()
        with self._changed:
            self._refuse_if_closed()
            self._pending.snapshots.append(Snapshot(name, version, make, note, generation, future))
            self._changed.notify_all()
        return future

    def read(self, name: str) -> bytes | None:
        """Return the newest state of a stream, written or still waiting to be; None if there is none.

        Raises:
            ValueError: If there are files, but none of them is whole.
        """
        with self._changed:
            state, deleted = self._pending.states.get(name), self._pending.erases(name)
        if state:
            return state.make()
        if deleted:
            return None
        with self._silence.waiting():
            files = self._store.states(name) if (data := self._store.load(name)) is None else []
        if files:
            raise ValueError(f"none of its files can be read ({', '.join(file.id for file in files)})")
        return data

    def forget(self, name: str) -> None:
        """Forget what waits of a stream that another server has taken over; what is asked of it then fails."""
        with self._changed:
            self._pending.forget(name)

    def delete(self, name: str, generation: int = 0) -> "Future[None]":
        """Forget what waits of a stream and erase its files.

        Returns:
            Done, or the OSError; after an error it is tried again. Until it is done nothing is written of a stream that
            has the name anew; but in a shared place it is, and what was left is no more of it, see `Eraser`.

        Raises:
            OSError: If the keeper is closed.
        """
        future: Future[None] = Future()
        with self._changed:
            self._refuse_if_closed()
            self._pending.erase(name, generation, future)
            self._changed.notify_all()
        return future

    def unerased(self, name: str) -> list[str]:
        """Return of a stream and its domains, or of one domain, what has files that are still to be erased."""
        with self._changed:
            return [each for each in self._pending.erasures if name in (each, stream_of_domain(each))]

    @property
    def unwritten(self) -> list[Entry]:
        """Lines of the audit log that wait, the oldest first."""
        with self._changed:
            return list(self._pending.lines)

    def flush(self, timeout_s: float) -> bool:
        """Write what waits, now; return whether that was done in time. What comes meanwhile is not waited for."""
        with self._changed:
            taking_all = self._rounds.begun + 1  # the next one takes everything that waits now
            return self._written_within(timeout_s, lambda: self._rounds.whole >= taking_all)

    def close(self, timeout_s: float = 20.0) -> bool:
        """Write everything that waits and end, both within the time; return whether everything was written."""
        end_s = time.monotonic() + timeout_s
        with self._changed:
            if self._thread.is_alive():
                self._written_within(timeout_s)
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(max(0.1, end_s - time.monotonic()))
        with self._changed:
            missing = self._pending.missing()
            self._missing = self._missing or missing
            if missing:
                log.error("%s are lost: %s", missing, self.trouble or "out of time")
        self._refuse(OSError(_CLOSED))
        if self._pending.lost:
            log.error("%d lines of the audit log or kept windows were given up before", self._pending.lost)
        self._store.release()
        self._ended.set()
        return not missing

    @property
    def failures(self) -> int:
        """Rounds of writing that failed since the start."""
        return self._rounds.failures

    @property
    def lost(self) -> int:
        """Audit lines and windows given up because too many waited for a disk that fails."""
        return self._pending.lost

    @property
    def trouble(self) -> str:
        """What is wrong with the disk, or an empty string."""
        return self._silence.trouble or self._rounds.trouble

    @property
    def lacking(self) -> str:
        """What is lost if the process ends now, or was when this was closed; an empty string if all is written."""
        with self._changed:
            return self._missing or self._pending.missing()

    @property
    def behind_s(self) -> float:
        """How long the oldest unwritten state has waited; 0 if all are written. The one to alert on."""
        with self._changed:
            return max((time.monotonic() - state.since_s for state in self._pending.states.values()), default=0.0)

    def _written_within(self, timeout_s: float, enough: Callable[[], bool] = lambda: False) -> bool:
        """Have it written without pauses until nothing waits, or it is `enough`; return whether that came in time."""
        self._hurry += 1
        self._rounds.due_s = 0.0
        self._changed.notify_all()
        done = self._changed.wait_for(lambda: enough() or not (self._pending or self._busy), timeout_s)
        self._hurry -= 1
        return done

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise OSError(_CLOSED)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._is_due()):
                    idle_s = _HOLD_EVERY_S if self._eraser.due_in_s is None else self._eraser.due_in_s
                    wait_s = self._rounds.due_s - time.monotonic() if self._pending else idle_s
                    if not self._changed.wait(wait_s) and not self._pending:
                        break
                if self._closed:
                    return
                self._busy = True
                self._rounds.begin()
            try:
                self._hold()
                self._round()
            except Exception as error:  # a remote store raises what it likes
                with self._changed:
                    self._rounds.fail(error, hurry=self._hurry > 0)
            else:
                with self._changed:
                    self._rounds.succeed(hurry=self._hurry > 0, whole=not self._closed)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _is_due(self) -> bool:
        return self._pending.urgent or (bool(self._pending) and time.monotonic() >= self._rounds.due_s)

    def _hold(self) -> None:
        """Make sure that the store is still this process's; if that fails nothing is tried, and who waits is told."""
        try:
            with self._silence.waiting():
                self._store.hold()
        except Exception as error:
            self._refuse(error)
            raise

    def _refuse(self, error: Exception) -> None:
        """Tell whoever waits for an answer why there is none."""
        with self._changed:
            left = {name: each.generation for name, each in self._pending.erasures.items()}
            futures = self._pending.refuse(again=not self.shared)
        for name, generation in left.items() if self.shared and not self._closed else ():
            self._eraser.leave(name, generation, error)
        fail(futures, error)

    def _round(self) -> None:
        problems = self._eraser.erase()
        self._write_snapshots()
        with self._changed:  # at one moment: no state here is newer than the lines
            windows, lines, states = self._pending.kept()
        problems += self._write_windows(windows)
        with self._silence.waiting():
            self._audit.append(lines)
        with self._changed:
            self._pending.wrote_lines(lines)
        hurried, ended = lambda: self._hurry > 0, lambda: self._closed
        work_off(states.items(), partial(self._write_states, problems), self._store.files.callers, hurried, ended)
        for problem in problems:
            raise problem

    def _write_snapshots(self) -> None:
        for snapshot in list(self._pending.snapshots):
            with self._silence.waiting():
                id = "" if snapshot.future.done() else tried(self._taken, snapshot)
            with self._changed:
                self._pending.wrote_snapshot(snapshot)
            if isinstance(id, Exception):
                fail([snapshot.future], id)
            else:
                settle([snapshot.future], id)

    def _taken(self, one: Snapshot) -> str:
        return self._store.snapshot(one.stream, one.version, one.make(), one.note, one.generation)

    def _write_windows(self, windows: list[KeptWindow]) -> list[Exception]:
        """Write what fits: windows are large, and states must not wait for them."""
        for window in windows:
            try:
                with self._silence.waiting():
                    self._store.keep_input(window.stream, window.digest, window.make(), window.generation)
            except LostError as error:
                log.warning("a window of '%s' is dropped: %s", window.stream, error)
            except Exception as error:
                return [error]
            with self._changed:
                self._pending.wrote_window(window)
        return []

    def _write_states(self, problems: list[Exception], left: deque[tuple[str, UnsavedState]]) -> None:
        """Take some of the states that are left, and write them together; what goes wrong is added to the problems."""
        taken, made = enough(take(left), self._store.files.together, problems)
        with self._silence.waiting():
            outcomes = tried(self._store.save_all, made)
        if isinstance(outcomes, Exception):
            problems.append(outcomes)
            return
        for (name, state), outcome in zip(taken.items(), outcomes, strict=True):
            if isinstance(outcome, LostError):
                log.warning("version %d of '%s' is dropped: %s", state.version, name, outcome)
            elif isinstance(outcome, Exception):  # the next stream's may still be written
                problems.append(outcome)
                continue
            with self._changed:
                self._pending.wrote_state(name, state)
