"""The earlier states of one stream, within a budget of bytes."""

from collections.abc import Iterator
from typing import NamedTuple

from tta_server.adapters import State
from tta_server.models.backbone import size_bytes


class Kept(NamedTuple):
    """A state that a stream had.

    Attributes:
        version: Its version.
        steps: Steps that made it, since the source.
        state: A reference: keeping it copies nothing.
        passed: Whether the guard's complete check found it good.
    """

    version: int
    steps: int
    state: State
    passed: bool


class History:
    """Remember states; forget the oldest first, and those that passed the guard's complete check last."""

    def __init__(self, max_bytes: int) -> None:
        """Start empty; the newest state that passed is kept even if it alone is larger than `max_bytes`."""
        self._max_bytes = max_bytes
        self._kept: list[Kept] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept)

    @property
    def versions(self) -> list[int]:
        """What `find` finds, oldest first."""
        return [kept.version for kept in self._kept]

    def add(self, kept: Kept) -> None:
        """Remember a state."""
        self._kept.append(kept)
        self.bytes += size_bytes(kept.state)
        while self.bytes > self._max_bytes and self._forget():
            pass

    def find(self, version: int) -> Kept | None:
        """Return the state of a version, if it is still there."""
        return next((kept for kept in self._kept if kept.version == version), None)

    def newest_passed(self, other_than: State | None = None) -> Kept | None:
        """Return the newest state that passed the guard's complete check.

        Args:
            other_than: A state that is not meant, under whatever version it is kept.
        """
        return next((kept for kept in reversed(self._kept) if kept.passed and kept.state is not other_than), None)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.bytes = 0

    def _forget(self) -> bool:
        precious = self.newest_passed()
        candidates = [kept for kept in self._kept if kept is not precious]
        if not candidates:
            return False
        oldest = next((kept for kept in candidates if not kept.passed and kept is not self._kept[-1]), candidates[0])
        self._kept.remove(oldest)
        self.bytes -= size_bytes(oldest.state)
        return True
