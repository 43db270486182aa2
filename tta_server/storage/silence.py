"""A storage that says nothing: whoever asks a network's file system that is gone waits, and no error ever comes."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

_LONG_S = 10.0
_LOOK_EVERY_S = 1.0


class Silence:
    """Know who waits for the storage, and since when; any thread may call it."""

    def __init__(self) -> None:
        """Start with nobody who waits."""
        self._since_s: dict[object, float] = {}  # for each question that was not answered, on the monotonic clock

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for the storage."""
        asked = object()
        self._since_s[asked] = time.monotonic()
        try:
            yield
        finally:
            del self._since_s[asked]

    @property
    def trouble(self) -> str:
        """For how long it has not answered whoever waits longest; an empty string while that is usual."""
        now_s = time.monotonic()
        silent_s = max((now_s - since_s for since_s in list(self._since_s.values())), default=0.0)
        return f"the storage has not answered for {silent_s:.0f} s" if silent_s > _LONG_S else ""

    def watch(self, ended: threading.Event) -> None:
        """Log when it does not answer, and when it does again, until `ended` is set."""
        last = ""
        while not ended.wait(_LOOK_EVERY_S):
            now = self.trouble
            if now and not last:
                log.warning("%s; what is to be kept waits in memory", now)
            elif last and not now:
                log.warning("the storage answers again; before, %s", last)
            last = now
