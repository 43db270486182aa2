"""Ways for a process and a disk to fail, inside one process."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tta_server.storage import failpoints


class Crash(BaseException):
    """The process died here: no handler of an ordinary error may catch it."""


@contextmanager
def armed(text: str) -> Iterator[None]:
    """Arm failpoints; a kill raises `Crash` instead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "kill", _die)
        failpoints.arm(text)
        try:
            yield
        finally:
            failpoints.arm("")


def _die(_: int, number: int) -> None:
    assert number == signal.SIGKILL
    raise Crash


class PowerCuts:
    """Record what of a folder has reached the disk for sure, and what a power cut may leave of it.

    A file's content is on the disk once the file was fsynced, and its name once its folder was. `after` is called
    before and after each operation that changes or syncs something.
    """

    def __init__(self, root: Path, after: Callable[[], None]) -> None:
        self._root = root
        self._look = after
        self._looking = False
        self._contents: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, int]] = {}
        self._held: list[int] = []  # an inode that is open is not used again for another file

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record until the end of the block."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "unlink", "rmdir", "mkdir"):
                patch.setattr(os, name, self._watched(getattr(os, name)))
            patch.setattr(os, "fsync", self._fsync)
            self._sync_folder(self._root)
            yield
        for file in self._held:
            os.close(file)

    def leave(self, target: Path, names_survive: bool) -> None:
        """Make `target` what a power cut now would leave.

        Args:
            target: A folder to create.
            names_survive: Whether renames and removals reached the disk without an fsync of their folder; contents
                without an fsync of the file never do.
        """
        self._copy(self._root, self._root.stat().st_ino, target, names_survive)

    def _copy(self, folder: Path, inode: int, target: Path, names_survive: bool) -> None:
        target.mkdir()
        now = {entry.name: entry.inode() for entry in os.scandir(folder)} if folder.is_dir() else {}
        for name, child in (now if names_survive else self._entries.get(inode, {})).items():
            if child in self._entries or (folder / name).is_dir():
                self._copy(folder / name, child, target / name, names_survive)
            else:
                (target / name).write_bytes(self._contents.get(child, b""))

    def _after(self) -> None:
        if not self._looking:  # what is done to look is not looked at
            self._looking = True
            self._look()
            self._looking = False

    def _watched(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            self._after()
            result = change(*args, **kwargs)
            self._after()
            return result

        return changed

    def _fsync(self, file: int) -> None:
        self._after()
        path = Path(f"/proc/self/fd/{file}").resolve()
        if path.is_dir():
            self._sync_folder(path)
        else:
            self._held.append(os.dup(file))
            self._contents[os.fstat(file).st_ino] = path.read_bytes()
        self._after()

    def _sync_folder(self, path: Path) -> None:
        self._held.append(os.open(path, os.O_RDONLY))
        self._entries[path.stat().st_ino] = {entry.name: entry.inode() for entry in os.scandir(path)}
