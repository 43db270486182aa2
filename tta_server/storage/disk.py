"""A local folder in which no crash leaves half a file."""

import contextlib
import fcntl
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tta_server.storage.failpoints import failpoint
from tta_server.storage.files import Found
from tta_server.storage.writers import in_turn

log = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"
_LOCK = "lock"
_LET_GO_WITHIN_S = 1.0
_SYNCS = 8  # at the same time


class Disk:
    """A folder. A write is: a file beside it, fsync, rename, fsync of the folder.

    Of files that are written together each step is done for all before the next begins: what one sync has the disk
    finish, those after it find done. One thread waits for the disk while another makes bytes; more would only take
    turns at the interpreter.
    """

    look_every_s = 0.0  # each look takes 0.1 ms
    callers = 2
    together = 64

    def __init__(self, root: Path) -> None:
        """Take the folder `root`, which need not exist."""
        self._root = root
        self._lock: int | None = None
        self._alone = True
        self._locking = fcntl.LOCK_EX
        self._holding = threading.Lock()
        self._unnamed: set[Path] = set()  # folders that are made and may not survive a power cut

    def claim(self, alone: bool = True) -> None:
        """Lock the folder, alone or beside others who share it; the lock goes with the process, however it ends."""
        if not alone:
            self._alone = False
            self._locking = fcntl.LOCK_SH
        try:
            self._lock = self._locked()
        except BlockingIOError as error:
            raise ValueError(
                f"storage folder '{self._root}' is in use by another server; give each its own, or share it "
                "(storage.shared in all of them)"
            ) from error

    def hold(self) -> None:
        """Make sure that the lock is still that of the folder; somebody may have removed the folder at run time.

        Raises:
            OSError: If another server has it now.
        """
        with self._holding:  # or two threads would find it lost, and one of them take the other for a server
            if self._lock is None or self._is_ours(self._lock):
                return
            try:
                again = self._locked()
            except BlockingIOError as error:
                raise OSError(f"storage folder '{self._root}' was removed, and another server has it now") from error
            log.error("storage folder '%s' was removed or replaced; what it held is gone", self._root)
            os.close(self._lock)
            self._lock = again

    def release(self) -> None:
        """Unlock the folder; if a look at it hangs, the end of the process will."""
        if self._holding.acquire(timeout=_LET_GO_WITHIN_S):
            try:
                if self._lock is not None:
                    os.close(self._lock)
                self._lock = None
            finally:
                self._holding.release()

    def read(self, path: str) -> bytes:
        """Return a file."""
        self.hold()
        return (self._root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Put a file there atomically and durably."""
        for problem in filter(None, self.write_all([(path, data)])):
            raise problem

    def write_all(self, files: Sequence[tuple[str, bytes]]) -> list[Exception | None]:
        """Put files there, each atomically, all durably."""
        return self._put([self._unfinished(*file) for file in files], _Unfinished.rename)

    def create(self, path: str, data: bytes) -> bool:
        """Put a file there atomically and durably unless there is one."""
        one = self._unfinished(path, data)
        for problem in filter(None, self._put([one], _Unfinished.link)):
            raise problem
        return one.linked

    def append_lines(self, path: str, lines: bytes) -> None:
        """Add lines durably; if that fails the file is as it was."""
        self.hold()
        target = self._root / path
        self._make_folder(target.parent)
        self._name(target.parent, set())
        failpoint("audit.before_append")
        file = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before_bytes = os.fstat(file).st_size
            torn = before_bytes > 0 and os.pread(file, 1, before_bytes - 1) != b"\n"
            try:
                _append(file, b"\n" + lines if torn else lines, "audit.mid_append", "audit.before_fsync")
                os.fsync(file)
                if not before_bytes:
                    _sync_folder(target.parent)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, before_bytes)
                raise
        finally:
            os.close(file)

    def remove(self, path: str) -> None:
        """Remove a file or an empty folder; what is removed may be back after a power cut."""
        failpoint("store.before_remove")
        self.hold()
        target = self._root / path
        with contextlib.suppress(FileNotFoundError):
            target.rmdir() if target.is_dir() else target.unlink()

    def listing(self, folder: str) -> list[Found]:
        """Return what is in a folder."""
        return sorted(found for found in self._all(folder) if not found.name.endswith(_UNFINISHED))

    def folders(self, folder: str, named: re.Pattern[str], prefix: str = "") -> dict[str, list[str]]:
        """Return what is in the folders of a folder."""
        return self._folders(folder, named, prefix, sweeping=False)

    def sweep(self, folder: str, named: re.Pattern[str]) -> dict[str, list[str]]:
        """Return what is in the folders of a folder; unfinished files go, if nobody else can be at work on them."""
        return self._folders(folder, named, "", sweeping=self._alone)

    def _put(self, ones: Sequence["_Unfinished"], place: Callable[["_Unfinished"], None]) -> list[Exception | None]:
        """Write files, `place` each where it belongs, and have all survive; returns what went wrong with each."""
        try:
            self.hold()
        except OSError as error:
            return [error] * len(ones)
        problems: list[Exception | None] = [None] * len(ones)
        synced = set[Path]()

        def each(step: Callable[[_Unfinished], None], callers: int = 1) -> None:
            def do(number: int) -> None:
                try:
                    step(ones[number])
                except Exception as error:  # on one of several threads: nobody else would hear of it
                    problems[number] = error.with_traceback(None)  # which has all that is written
                    ones[number].drop()

            in_turn([number for number, problem in enumerate(problems) if problem is None], do, callers)

        each(self._write)
        each(_Unfinished.sync, _SYNCS)
        each(lambda one: self._name(one.folder, synced))
        each(place)
        each(lambda one: _sync_folder(one.folder), _SYNCS)  # whoever made what is there: their sync may have failed
        return problems

    def _unfinished(self, path: str, data: bytes) -> "_Unfinished":
        own = "" if self._alone else f".{secrets.token_hex(4)}"  # two may write a file of one name at a time
        return _Unfinished(self._root / path, data, own)

    def _write(self, one: "_Unfinished") -> None:
        self._make_folder(one.folder)
        one.write()

    def _make_folder(self, folder: Path) -> None:
        """Make a folder, with those that it is in, unless it is there; nothing is sure to survive before `_name`."""
        if not folder.is_dir():
            self._make_folder(folder.parent)
            self._unnamed.add(folder)  # until a sync succeeds, for others who find the folder and for who tries again
            folder.mkdir(exist_ok=True)

    def _name(self, folder: Path, synced: set[Path]) -> None:
        """Have a folder survive a power cut.

        Args:
            folder: Which.
            synced: Those that were synced since it was made; they become more.
        """
        if folder in self._unnamed:
            parent = folder.parent
            self._name(parent, synced)
            if parent not in synced:
                _sync_folder(parent)
                synced.add(parent)
            self._unnamed.discard(folder)

    def _locked(self) -> int:
        """Return the lock, taken.

        Raises:
            BlockingIOError: If another server has it.
        """
        self._make_folder(self._root)
        self._name(self._root, set())
        lock = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, self._locking | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise
        return lock

    def _is_ours(self, lock: int) -> bool:
        try:
            there = (self._root / _LOCK).stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(lock))

    def _folders(self, folder: str, named: re.Pattern[str], prefix: str, sweeping: bool) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, is_folder in self._entries(folder, prefix):
            if not (is_folder and named.fullmatch(name)):
                continue
            there = self._entries(f"{folder}/{name}")
            found[name] = [each for each, _ in there if not each.endswith(_UNFINISHED)]
            if sweeping:
                self._clear(f"{folder}/{name}", there)
        return found

    def _clear(self, folder: str, there: list[tuple[str, bool]]) -> None:
        for name, is_folder in there:
            if is_folder:
                self._clear(f"{folder}/{name}", self._entries(f"{folder}/{name}"))
            elif name.endswith(_UNFINISHED):
                self.remove(f"{folder}/{name}")

    def _entries(self, folder: str, prefix: str = "") -> list[tuple[str, bool]]:
        """Return the names in a folder that begin so, and whether each is of a folder; nothing else is asked."""
        with contextlib.suppress(FileNotFoundError), os.scandir(f"{self._root}/{folder}") as entries:
            wanted = (entry for entry in entries if entry.name.startswith(prefix))
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in wanted]
        return []

    def _all(self, folder: str) -> Iterator[Found]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._root / folder) as entries:
            for entry in entries:
                try:
                    facts = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # removed since
                    continue
                is_folder = entry.is_dir(follow_symlinks=False)
                yield Found(entry.name, 0 if is_folder else facts.st_size, facts.st_mtime, is_folder)


class _Unfinished:
    """A file beside its place, in which it is put once it is whole.

    Attributes:
        folder: The folder of both.
        linked: Whether `link` has put it there.
    """

    def __init__(self, target: Path, data: bytes, own: str) -> None:
        """Take the place, what is to be in it, and what tells this file from others who want the place."""
        self.folder = target.parent
        self._target, self._data = target, data
        self._path = self.folder / f"{target.name}{own}{_UNFINISHED}"
        self._file = -1
        self.linked = False

    def write(self) -> None:
        """Write all of it; it is not sure to survive."""
        failpoint("store.before_write")
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        _append(self._file, self._data, "store.mid_write", "store.before_fsync")

    def sync(self) -> None:
        """Have what is written survive a power cut."""
        os.fsync(self._file)
        self._close()

    def rename(self) -> None:
        """Put it in its place, and out of it what is there."""
        failpoint("store.before_rename")
        self._path.replace(self._target)
        failpoint("store.after_rename")

    def link(self) -> None:
        """Put it in its place unless there is something."""
        try:
            with contextlib.suppress(FileExistsError):
                os.link(self._path, self._target)
                self.linked = True
        finally:
            self._path.unlink()

    def drop(self) -> None:
        """Remove what is not in its place yet: on a full disk every byte counts."""
        self._close()
        with contextlib.suppress(Exception):
            self._path.unlink()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _append(file: int, data: bytes, midway: str, written: str) -> None:
    """Add data to an open file, past two failpoints."""
    half, whole = len(data) // 2, memoryview(data)  # bytes would be copied for each part
    for part, point in ((whole[:half], midway), (whole[half:], written)):
        left = part
        while left:
            left = left[os.write(file, left) :]
        failpoint(point)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
