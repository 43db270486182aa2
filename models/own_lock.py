"""A lock that does not keep what has it from being copied or pickled."""

import threading
from types import TracebackType


class OwnLock:
    """A lock of which each copy is another one, and open."""

    def __init__(self) -> None:
        """Begin open."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        """Wait until it is open, and close it."""
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Open it."""
        self._lock.release()

    def __reduce__(self) -> tuple[type["OwnLock"], tuple[()]]:
        """Say how a copy is made."""
        return OwnLock, ()
