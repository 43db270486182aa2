"""Erase what streams leave, and try again what fails.

Where a server is alone, what is left would be taken for a stream of the same name: so nothing is written of that until
the erasure is done. In a shared place it holds nothing up: files of an erased stream do not count, and those of a
domain do not once its stream's file says that it is gone.
"""

import logging
import threading
import time

from tta_server.storage.owners import LostError
from tta_server.storage.pending import Pending, fail, settle
from tta_server.storage.silence import Silence
from tta_server.storage.store import Store

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 30.0


class Eraser:
    """Run the erasures of one keeper, on its thread."""

    def __init__(
        self, store: Store, pending: Pending, silence: Silence, turn: threading.Condition, retry_s: float
    ) -> None:
        """Take what is erased.

        Args:
            store: Where.
            pending: What waits.
            silence: Hears of waiting for the store.
            turn: Is held by whoever looks at what waits.
            retry_s: Wait before something left is tried again; doubled with each failure, up to half a minute.
        """
        self._store = store
        self._pending = pending
        self._silence = silence
        self._turn = turn
        self._retry_s = self._wait_s = retry_s
        self._left: dict[str, int] = {}  # names, and the generation of who erased each
        self._due_s = 0.0

    @property
    def due_in_s(self) -> float | None:
        """Return when what is left is due; None if nothing is."""
        return max(0.0, self._due_s - time.monotonic()) if self._left else None

    def erase(self) -> list[Exception]:
        """Erase what waits, then what was left if that is due; returns what failed and holds up others."""
        problems = list(filter(None, map(self._first, list(self._pending.erasures))))
        if self.due_in_s == 0.0:
            self._again()
        return problems

    def leave(self, name: str, generation: int, error: Exception) -> None:
        """Try an erasure in a shared place again later, unless another server has the stream by now."""
        if isinstance(error, LostError):
            return
        if not self._left:
            self._due_s, self._wait_s = time.monotonic() + self._retry_s, self._retry_s
        self._left[name] = generation
        log.warning("'%s' cannot be erased yet, and will be tried again: %s", name, error)

    def _first(self, name: str) -> Exception | None:
        with self._turn:
            erasure = self._pending.begin_erasure(name)
        if erasure is None:
            return None
        error = self._erased(name, erasure.generation)
        with self._turn:
            if error is None or self._store.replica:
                self._pending.end_erasure(name)
        if error is None:
            settle(erasure.futures, None)
            return None
        if self._store.replica:
            self.leave(name, erasure.generation, error)
        fail(erasure.futures, error)
        return None if self._store.replica else error

    def _again(self) -> None:
        for name, generation in list(self._left.items()):
            error = self._erased(name, generation)
            if error is None or isinstance(error, LostError):
                del self._left[name]
                log.info("'%s' %s", name, error or "is erased")
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        self._due_s = time.monotonic() + self._wait_s

    def _erased(self, name: str, generation: int) -> Exception | None:
        try:
            with self._silence.waiting():
                self._store.delete(name, generation)
        except Exception as error:  # a remote store raises what it likes
            return error
        return None
