"""A store that can be made to fail, and a log beside it, for tests of the thread that writes."""

import errno
import threading
from collections.abc import Sequence

from tta_server.storage.audit import Audit
from tta_server.storage.files import tried
from tta_server.storage.pending import Make
from tta_server.storage.saving import New
from tta_server.storage.store import Store

SOON_S = 10.0


def text(content: str) -> Make:
    """Return what makes a file of some text."""
    return lambda: content.encode()


class Slow(Store):
    """A store whose disk can be made to fail, hang or be watched."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.full = False
        self.go_on = threading.Event()
        self.go_on.set()
        self.reached = threading.Event()
        self.calls: list[tuple] = []

    def save_all(self, new: Sequence[New]) -> list[str | Exception]:
        return [tried(self.save_one, each) for each in new]

    def save_one(self, new: New) -> str:
        self.reached.set()
        assert self.go_on.wait(SOON_S)
        self.calls.append(("save", new.name, new.version))
        self._check()
        return super().save_all([new])[0]

    def keep_input(self, name: str, digest: str, data: bytes, generation: int = 0) -> None:
        self.calls.append(("input", name, digest))
        self._check()
        super().keep_input(name, digest, data, generation)

    def delete(self, name: str, generation: int = 0) -> None:
        self.calls.append(("delete", name))
        self._check()
        super().delete(name, generation)

    def _check(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")


class Watched(Audit):
    """A log that tells the store's list of calls, in order, what it was given."""

    def __init__(self, store: Slow) -> None:
        super().__init__(store.files)
        self._store = store

    def append(self, entries) -> None:
        entries = list(entries)
        self._store.calls += [("line", entry.stream, entry.version_after) for entry in entries]
        self._store._check()
        super().append(entries)
