"""The last lines of the audit log in memory, for a server that keeps nothing on disk."""

import threading
from collections import deque
from itertools import islice
from typing import Final

from tta_server.storage.audit import Entry

MOST_LINES: Final = 4096


class Ring:
    """Keep the newest lines; any thread may write and read."""

    def __init__(self, most: int = MOST_LINES) -> None:
        """Begin empty.

        Args:
            most: Lines that are kept; the oldest go first.
        """
        self._entries: deque[Entry] = deque(maxlen=most)
        self._lock = threading.Lock()

    def append(self, entry: Entry) -> None:
        """Keep one more."""
        with self._lock:
            self._entries.appendleft(entry)

    def newest(self, stream: str = "", limit: int = 100) -> list[Entry]:
        """Return at most `limit` entries of one stream, or all, newest first."""
        with self._lock:
            return list(islice((entry for entry in self._entries if stream in ("", entry.stream)), limit))
