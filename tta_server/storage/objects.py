"""What fsspec reaches, local folders apart: object stores above all."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.asyn import AsyncFileSystem  # type: ignore[import-untyped]

from tta_server.storage.disk import Disk
from tta_server.storage.failpoints import failpoint
from tta_server.storage.files import Files, Found, tried

_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "gcs": ("gcsfs", "gs")}
_CLAIM = "claimed"
_CALLERS = 8


def reached(url: str) -> Files:
    """Return the place that a URL with a protocol names; nothing is written yet.

    Raises:
        ValueError: If the protocol is unknown, what it needs is not installed, or it is set up wrongly.
    """
    protocol = url.partition("://")[0]
    try:
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package, extra = _EXTRAS.get(protocol, (error.name or "a package", ""))
        how = f"install tta-server[{extra}]" if extra else str(error)
        raise ValueError(f"storage.url '{url}' needs {package}; {how}") from error
    except Exception as error:
        raise ValueError(f"storage.url '{url}' cannot be used: {error}") from error
    local = "file" in ((filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol)
    return Disk(Path(root)) if local else ObjectStore(filesystem, root, url)


class ObjectStore:
    """What fsspec reaches: an object is put there at once or not at all."""

    look_every_s = 10.0  # each look takes some 30 ms, and money
    together = 1  # each takes as long as it would alone

    def __init__(self, filesystem: Any, root: str, url: str) -> None:  # noqa: ANN401
        """Take an fsspec filesystem, the prefix in it, and what a person calls both."""
        self._filesystem = filesystem
        self._url = url
        self._root = root.rstrip("/")
        self._async = isinstance(filesystem, AsyncFileSystem)
        self.callers = _CALLERS if self._async else 1  # FTP has one connection for everybody

    def claim(self, alone: bool = True) -> None:
        """Write once, so that a missing bucket and wrong credentials show at the start; there is no lock to take.

        Args:
            alone: Whether no other server has the prefix; nothing here makes sure of that.

        Raises:
            ValueError: If it cannot be written.
        """
        try:
            self.write(_CLAIM, b"")
        except Exception as error:
            raise ValueError(f"storage '{self._url}' cannot be written: {error}") from error

    def hold(self) -> None:
        """Do nothing: there is no lock to lose."""

    def release(self) -> None:
        """Do nothing."""

    def read(self, path: str) -> bytes:
        """Return an object."""
        with _asked():
            data: bytes = self._filesystem.cat_file(self._at(path))
        return data

    def write(self, path: str, data: bytes) -> None:
        """Put an object there."""
        failpoint("store.before_write")
        with _asked():
            self._make_folder(path)
            self._filesystem.pipe_file(self._at(path), data)
        failpoint("store.after_rename")

    def write_all(self, files: Sequence[tuple[str, bytes]]) -> list[Exception | None]:
        """Put objects there, one after another."""
        return [tried(self.write, *file) for file in files]

    def create(self, path: str, data: bytes) -> bool:
        """Put an object there unless there is one: If-None-Match on S3, a generation match on GCS."""
        with contextlib.suppress(FileExistsError), _asked():
            self._make_folder(path)
            self._filesystem.pipe_file(self._at(path), data, mode="create")
            return True
        return False

    def append_lines(self, path: str, lines: bytes) -> None:
        """Put the object there anew with the lines at its end: objects cannot grow."""
        failpoint("audit.before_append")
        try:
            before = self.read(path)
        except FileNotFoundError:
            before = b""
        with _asked():
            self._filesystem.pipe_file(self._at(path), before + lines)

    def remove(self, path: str) -> None:
        """Remove an object; a folder is there only as long as there is something in it."""
        failpoint("store.before_remove")
        with contextlib.suppress(FileNotFoundError), _asked():
            at = self._at(path)
            self._filesystem.rmdir(at) if self._filesystem.isdir(at) else self._filesystem.rm_file(at)

    def listing(self, folder: str) -> list[Found]:
        """Return what is in a folder, which is itself a prefix."""
        try:
            with _asked():
                infos = self._filesystem.ls(self._at(folder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(_found(info) for info in infos if info["name"].rstrip("/") != self._at(folder))

    def folders(self, folder: str, named: re.Pattern[str], prefix: str = "") -> dict[str, list[str]]:
        """Return what is in the folders of a folder."""
        found: dict[str, set[str]] = {}
        for name, below in self._pairs(folder, prefix):
            if name.startswith(prefix) and named.fullmatch(name):
                found.setdefault(name, set()).add(below)
        return {name: sorted(names) for name, names in found.items()}

    def sweep(self, folder: str, named: re.Pattern[str]) -> dict[str, list[str]]:
        """Return what is in the folders of a folder; nothing unfinished is ever visible."""
        return self.folders(folder, named)

    def _pairs(self, folder: str, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield the name of each folder in a folder with that of each thing in it, some more than once."""
        if not self._async:
            for name in (one.name for one in self.listing(folder) if one.is_folder and one.name.startswith(prefix)):
                yield from ((name, each.name) for each in self.listing(f"{folder}/{name}"))
            return
        at, paths = self._at(folder), list[str]()
        with contextlib.suppress(FileNotFoundError), _asked():  # s3 and gs say a thousand paths each time, all below
            paths = self._filesystem.find(at, **({"prefix": prefix} if prefix else {}))
        for name, *below in (path.removeprefix(at).strip("/").split("/") for path in paths):
            if below:
                yield name, below[0]

    def _make_folder(self, path: str) -> None:
        if not self._async:  # s3 and gs have no folders; FTP has
            self._filesystem.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")


@contextlib.contextmanager
def _asked() -> Iterator[None]:
    """Have whatever a remote store raises be an OSError that may pass; what is there or not is told apart."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        raise OSError(str(error) or type(error).__name__) from error


def _found(info: dict[str, Any]) -> Found:
    when = next((info[key] for key in ("mtime", "LastModified", "updated", "created") if info.get(key)), 0.0)
    modified_s = when.timestamp() if hasattr(when, "timestamp") else when if isinstance(when, float) else 0.0
    is_folder = info["type"] == "directory"
    return Found(info["name"].rstrip("/").rpartition("/")[2], int(info.get("size") or 0), modified_s, is_folder)
