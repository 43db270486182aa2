"""Where bytes are kept: a local folder, written so that no crash leaves half a file, or what fsspec can reach."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import fsspec  # type: ignore[import-untyped]
from fsspec.asyn import AsyncFileSystem  # type: ignore[import-untyped]

from tta_server.safety.failpoints import failpoint

_UNFINISHED = ".unfinished"
_LOCK = "lock"
_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "gcs": ("gcsfs", "gs")}


class Found(NamedTuple):
    """One file or folder of a listing.

    Attributes:
        name: Its name in the folder.
        size_bytes: Its size; 0 for a folder.
        modified_s: When it was written, in seconds since 1970; 0 where that is not known.
        is_folder: Whether it is one.
    """

    name: str
    size_bytes: int
    modified_s: float
    is_folder: bool


class Files(Protocol):
    """Bytes under paths such as `streams/camera/manifest.json`. Whatever fails raises OSError."""

    def claim(self) -> None:
        """Take the place for this process alone; ValueError if another has it."""
        ...

    def release(self) -> None:
        """Let others have it."""
        ...

    def read(self, path: str) -> bytes:
        """Return a file; FileNotFoundError if there is none."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Put a file there, whole or not at all; when this returns it survives a power cut."""
        ...

    def append_lines(self, path: str, lines: bytes) -> None:
        """Add lines, each with its newline, to the end of a file; a torn line there is ended first."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file or an empty folder, if it is there."""
        ...

    def listing(self, folder: str) -> list[Found]:
        """Return what is in a folder, sorted by name, without unfinished files; empty if there is no such folder."""
        ...

    def sweep(self, folder: str) -> None:
        """Remove unfinished files that a crash left in `folder`."""
        ...


def open_files(url: str) -> Files:
    """Return the place that `url` names; nothing is written yet.

    Raises:
        ValueError: If the protocol is unknown, what it needs is not installed, or it is set up wrongly.
    """
    protocol = url.partition("://")[0] if "://" in url else "file"
    try:
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package, extra = _EXTRAS.get(protocol, (error.name or "a package", ""))
        how = f"install tta-server[{extra}]" if extra else str(error)
        raise ValueError(f"storage.url '{url}' needs {package}; {how}") from error
    except Exception as error:
        raise ValueError(f"storage.url '{url}' cannot be used: {error}") from error
    local = "file" in ((filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol)
    return Disk(Path(root)) if local else ObjectStore(filesystem, root)


class Disk:
    """A local folder. A write is: a file beside it, fsync, rename, fsync of the folder."""

    def __init__(self, root: Path) -> None:
        """Take the folder `root`, which need not exist."""
        self._root = root
        self._lock: int | None = None

    def claim(self) -> None:
        """Lock the folder; the lock goes with the process, however it ends."""
        _make_folder(self._root)
        lock = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ValueError(f"storage folder '{self._root}' is in use by another server; give each its own") from error
        self._lock = lock

    def release(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def read(self, path: str) -> bytes:
        """Return a file."""
        return (self._root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Put a file there atomically and durably."""
        target = self._root / path
        unfinished = target.with_name(target.name + _UNFINISHED)
        _make_folder(target.parent)
        try:
            _write_durably(unfinished, data)
            failpoint("store.before_rename")
            unfinished.replace(target)
        except OSError:
            unfinished.unlink(missing_ok=True)  # on a full disk every byte counts
            raise
        failpoint("store.after_rename")
        _sync_folder(target.parent)

    def append_lines(self, path: str, lines: bytes) -> None:
        """Add lines durably; if that fails the file is as it was."""
        target = self._root / path
        _make_folder(target.parent)
        failpoint("audit.before_append")
        file = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before_bytes = os.fstat(file).st_size
            torn = before_bytes > 0 and os.pread(file, 1, before_bytes - 1) != b"\n"
            try:
                _append(file, b"\n" + lines if torn else lines)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, before_bytes)
                raise
        finally:
            os.close(file)
        if not before_bytes:
            _sync_folder(target.parent)

    def remove(self, path: str) -> None:
        """Remove a file or an empty folder; what is removed may be back after a power cut."""
        failpoint("store.before_remove")
        target = self._root / path
        with contextlib.suppress(FileNotFoundError):
            target.rmdir() if target.is_dir() else target.unlink()

    def listing(self, folder: str) -> list[Found]:
        """Return what is in a folder."""
        return sorted(found for found in self._all(folder) if not found.name.endswith(_UNFINISHED))

    def sweep(self, folder: str) -> None:
        """Remove unfinished files."""
        for found in list(self._all(folder)):
            if found.name.endswith(_UNFINISHED):
                self.remove(f"{folder}/{found.name}")

    def _all(self, folder: str) -> Iterator[Found]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._root / folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed since
                    facts = entry.stat(follow_symlinks=False)
                    is_folder = entry.is_dir(follow_symlinks=False)
                    yield Found(entry.name, 0 if is_folder else facts.st_size, facts.st_mtime, is_folder)


class ObjectStore:
    """What fsspec reaches: an object is put there at once or not at all. One server must own the prefix."""

    def __init__(self, filesystem: Any, root: str) -> None:  # noqa: ANN401
        """Take an fsspec filesystem and the prefix in it."""
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    def claim(self) -> None:
        """Reach the store once, so that wrong credentials show at the start; there is no lock to take.

        Raises:
            ValueError: If it cannot be reached.
        """
        try:
            self.listing("")
        except Exception as error:
            raise ValueError(f"storage '{self._root}' cannot be reached: {error}") from error

    def release(self) -> None:
        """Do nothing."""

    def read(self, path: str) -> bytes:
        """Return an object."""
        data: bytes = self._filesystem.cat_file(self._at(path))
        return data

    def write(self, path: str, data: bytes) -> None:
        """Put an object there."""
        failpoint("store.before_write")
        if not isinstance(self._filesystem, AsyncFileSystem):  # s3 and gs have no folders; SFTP has
            self._filesystem.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)
        self._filesystem.pipe_file(self._at(path), data)
        failpoint("store.after_rename")

    def append_lines(self, path: str, lines: bytes) -> None:
        """Put the object there anew with the lines at its end: objects cannot grow."""
        failpoint("audit.before_append")
        try:
            before = self.read(path)
        except FileNotFoundError:
            before = b""
        self._filesystem.pipe_file(self._at(path), before + lines)

    def remove(self, path: str) -> None:
        """Remove an object; a folder is there only as long as there is something in it."""
        failpoint("store.before_remove")
        with contextlib.suppress(FileNotFoundError):
            at = self._at(path)
            self._filesystem.rmdir(at) if self._filesystem.isdir(at) else self._filesystem.rm_file(at)

    def listing(self, folder: str) -> list[Found]:
        """Return what is under a prefix."""
        try:
            infos = self._filesystem.ls(self._at(folder), detail=True)
        except FileNotFoundError:
            return []
        found = (_found(info) for info in infos)
        return sorted(entry for entry in found if entry.name and entry.name != folder.rpartition("/")[2])

    def sweep(self, folder: str) -> None:
        """Do nothing: nothing unfinished is ever visible."""

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")


def _found(info: dict[str, Any]) -> Found:
    when = next((info[key] for key in ("mtime", "LastModified", "updated", "created") if info.get(key)), 0.0)
    modified_s = when.timestamp() if hasattr(when, "timestamp") else when if isinstance(when, float) else 0.0
    is_folder = info["type"] == "directory"
    return Found(info["name"].rstrip("/").rpartition("/")[2], int(info.get("size") or 0), modified_s, is_folder)


def _write_durably(path: Path, data: bytes) -> None:
    failpoint("store.before_write")
    half = len(data) // 2
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data[:half])
        file.flush()
        failpoint("store.mid_write")
        file.write(data[half:])
        file.flush()
        failpoint("store.before_fsync")
        os.fsync(file.fileno())


def _append(file: int, data: bytes) -> None:
    half = len(data) // 2
    for part, point in ((data[:half], "audit.mid_append"), (data[half:], "audit.before_fsync")):
        left = part
        while left:
            left = left[os.write(file, left) :]
        failpoint(point)
    os.fsync(file)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
