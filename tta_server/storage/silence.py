"""Whether a storage can be asked: one that is gone may fail, or say nothing, so that who asks waits and no error comes.

What fails about one stream alone says nothing of the storage: only a look at it as a whole does.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

_LONG_S = 10.0
_LOOK_EVERY_S = 1.0


class Silence:
    """Know who waits for the storage, and since when, and whether the last look failed; any thread may call it."""

    def __init__(self) -> None:
        """Start with nobody who waits."""
        self._since_s: dict[object, float] = {}  # for each question that was not answered, on the monotonic clock
        self._failed = ""  # why the last look did

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
        """For how long it has not answered whoever waits longest, or how it fails; an empty string if all is well."""
        now_s = time.monotonic()
        silent_s = max((now_s - since_s for since_s in list(self._since_s.values())), default=0.0)
        return f"the storage has not answered for {silent_s:.0f} s" if silent_s > _LONG_S else self._failed

    def look(self, ended: threading.Event, ask: Callable[[], object], every_s: float) -> None:
        """Ask again and again, sooner after a failure, until `ended` is set: also while nobody else asks.

        Args:
            ended: When to stop.
            ask: Asks about no stream, and raises what the storage does.
            every_s: Time between two looks.
        """
        while not ended.wait(_LOOK_EVERY_S if self._failed else max(_LOOK_EVERY_S, every_s)):
            try:
                with self.waiting():
                    ask()
            except Exception as error:  # a remote store raises what it likes
                self._failed = f"the storage cannot be asked: {error or type(error).__name__}"
            else:
                self._failed = ""

    def watch(self, ended: threading.Event, meanwhile: str) -> None:
        """Log when it cannot be asked, with what is so `meanwhile`, and when it can again, until `ended` is set."""
        last = ""
        while not ended.wait(_LOOK_EVERY_S):
            now = self.trouble
            if now and not last:
                log.warning("%s; %s", now, meanwhile)
            elif last and not now:
                log.warning("the storage answers again; before, %s", last)
            last = now
