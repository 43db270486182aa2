"""States and snapshots of streams as files that no crash can spoil. Bytes in, bytes out: no torch in here.

    streams/<name>/state-00000012-v37-<digest>.safetensors     the newest states
    streams/<name>/snapshot-00000009-v30-<digest>.safetensors  what somebody asked for
    streams/<name>/manifest.json                               what each file is
    streams/<name>/inputs/<digest>.safetensors                 windows that were learnt from, if they are kept

The files are the truth and the manifest describes them: a name holds the digest of its content, so that a file shows
by itself whether it is complete, and a lost or damaged manifest costs notes and times alone. Order of a save: state,
manifest, then what the manifest no longer names is removed.
"""

import hashlib
import logging
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from tta_server.settings import STREAM_OR_DOMAIN_NAME
from tta_server.storage.failpoints import failpoint
from tta_server.storage.files import Files, Found
from tta_server.storage.manifest import SUFFIX, Kind, Saved, dump_manifest, from_name, load_manifest, new_id, of_kind
from tta_server.storage.objects import open_files

log = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{16,64}")
_ERASED = "erased"  # a stream's folder with this file in it is no more: what is left goes at the next start
_MANIFEST = "manifest.json"


class Store:
    """What one server keeps under one folder or URL. Any thread may call it; calls wait for one another."""

    def __init__(self, url: str, keep: int = 3, keep_snapshots: int = 32, inputs_max_bytes: int = 2**30) -> None:
        """Open the place; nothing is written before `claim`.

        Args:
            url: Folder or fsspec URL.
            keep: States kept of each stream; at least 2, because the newest may turn out damaged.
            keep_snapshots: Snapshots kept of each stream; the oldest go first.
            inputs_max_bytes: Most bytes of kept windows of each stream; the oldest go first.

        Raises:
            ValueError: If the URL cannot be used or a number is out of range.
        """
        if keep < 2 or keep_snapshots < 1:
            raise ValueError(f"store keeps {keep} states and {keep_snapshots} snapshots, expected at least 2 and 1")
        self.files: Files = open_files(url)
        self._keep: dict[Kind, int] = {"state": keep, "snapshot": keep_snapshots}
        self._inputs_max_bytes = inputs_max_bytes
        self._damaged: set[str] = set()  # found so: not counted as kept, gone with the next save
        self._lock = threading.RLock()

    def claim(self) -> None:
        """Take the store for this process, and finish what a crash interrupted.

        Raises:
            ValueError: If another server has it or it cannot be reached.
            OSError: If the folder cannot be written.
        """
        with self._lock:
            self.files.claim()
            for folder in self._folders():
                self.files.sweep(folder)
                self.files.sweep(f"{folder}/inputs")
                if self._is_erased(folder):
                    self._erase(folder)

    def hold(self) -> None:
        """Make sure that the store is still this process's.

        Raises:
            OSError: If another server has it now.
        """
        with self._lock:
            self.files.hold()

    def release(self) -> None:
        """Let another process have it."""
        self.files.release()

    def names(self) -> list[str]:
        """Return the streams that a state or snapshot is kept of, sorted."""
        with self._lock:
            return [name for name in (folder.partition("/")[2] for folder in self._folders()) if self._saved(name)]

    def save(self, name: str, version: int, data: bytes) -> str:
        """Keep the state of a stream; older ones beyond `keep` go.

        Args:
            name: The stream.
            version: Version of the state.
            data: A whole file that says by itself what it belongs to, as `adapters.dump_state` makes it.

        Returns:
            Its id; when this returns the state survives a power cut.

        Raises:
            OSError: If it cannot be written; then everything is as before.
        """
        return self._put(name, "state", version, data, "")

    def snapshot(self, name: str, version: int, data: bytes, note: str = "") -> str:
        """Keep a state until `keep_snapshots` newer ones are there; as `save` otherwise."""
        return self._put(name, "snapshot", version, data, note)

    def load(self, name: str) -> bytes | None:
        """Return the last complete state of a stream, or None if there is none; damaged ones are passed over."""
        with self._lock:
            for saved in reversed(self._saved(name)):
                if saved.kind == "state" and (data := self._intact(name, saved)) is not None:
                    return data
        return None

    def states(self, name: str) -> list[Saved]:
        """Return the states kept of a stream, oldest first; whether they are intact shows when they are read."""
        return [saved for saved in self._saved(name) if saved.kind == "state"]

    def snapshots(self, name: str) -> list[Saved]:
        """Return the snapshots kept of a stream, oldest first."""
        return [saved for saved in self._saved(name) if saved.kind == "snapshot"]

    def read(self, name: str, id: str) -> bytes | None:
        """Return the state or snapshot `id` of a stream, or None if there is no such intact file."""
        with self._lock:
            found = next((saved for saved in self._saved(name) if saved.id == id), None)
            return self._intact(name, found) if found else None

    def keep_input(self, name: str, digest: str, data: bytes) -> None:
        """Keep a window that a stream learnt from, for a later replay; the oldest beyond the limit go.

        Raises:
            OSError: If it cannot be written.
        """
        with self._lock:
            folder = f"{_folder(name)}/inputs"
            self.files.write(f"{folder}/{_checked(digest)}{SUFFIX}", data)
            kept = sorted(self.files.listing(folder), key=lambda found: found.modified_s)
            excess_bytes = sum(found.size_bytes for found in kept) - self._inputs_max_bytes
            for found in kept[:-1]:
                if excess_bytes <= 0:
                    break
                self.files.remove(f"{folder}/{found.name}")
                excess_bytes -= found.size_bytes

    def read_input(self, name: str, digest: str) -> bytes | None:
        """Return a window that was kept, or None."""
        try:
            return self.files.read(f"{_folder(name)}/inputs/{_checked(digest)}{SUFFIX}")
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        """Erase everything of a stream; once begun, a crash does not bring it back.

        Raises:
            OSError: If it cannot be erased now; it may then be half gone, and a second call goes on.
        """
        with self._lock:
            folder = _folder(name)
            if self.files.listing(folder):
                self.files.write(f"{folder}/{_ERASED}", b"")
                self._erase(folder)

    def used_bytes(self, name: str = "") -> int:
        """Return the size of everything that is kept of one stream, or of all."""
        folders = [_folder(name)] if name else self._folders()
        return sum(found.size_bytes for folder in folders for _, found in self._tree(folder))

    def _put(self, name: str, kind: Kind, version: int, data: bytes, note: str) -> str:
        with self._lock:
            folder = _folder(name)
            if self._is_erased(folder):
                self._erase(folder)
            saved = self._saved(name)
            sequence = max((old.sequence for old in saved), default=0) + 1
            digest = hashlib.sha256(data).hexdigest()
            id = new_id(kind, sequence, version, digest)
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self.files.write(f"{folder}/{id}{SUFFIX}", data)
            saved.append(Saved(id, kind, version, digest, len(data), now, note))
            whole = [old for old in saved if f"{name}/{old.id}" not in self._damaged]
            kept = [old for kind, most in self._keep.items() for old in of_kind(whole, kind)[-most:]]
            try:
                self.files.write(f"{folder}/{_MANIFEST}", dump_manifest(name, kept))
            except OSError:
                self.files.remove(f"{folder}/{id}{SUFFIX}")
                raise
            for old in saved:
                if old not in kept:
                    self.files.remove(f"{folder}/{old.id}{SUFFIX}")
            return id

    def _saved(self, name: str) -> list[Saved]:
        """Return what files there are, oldest first, with what the manifest says of them."""
        with self._lock:
            folder = _folder(name)
            listing = self.files.listing(folder)
            if any(found.name == _ERASED for found in listing):
                return []
            described = self._described(folder) if any(found.name == _MANIFEST for found in listing) else {}
            saved = [from_name(found, described.get(found.name)) for found in listing]
            return sorted((entry for entry in saved if entry), key=lambda entry: entry.sequence)

    def _described(self, folder: str) -> dict[str, Saved]:
        try:
            return load_manifest(self.files.read(f"{folder}/{_MANIFEST}"))
        except (OSError, ValueError) as error:
            log.warning("manifest of '%s' is damaged and is made anew from the files: %s", folder, error)
            return {}

    def _intact(self, name: str, saved: Saved) -> bytes | None:
        try:
            data = self.files.read(f"{_folder(name)}/{saved.id}{SUFFIX}")
        except OSError as error:
            log.warning("'%s' of stream '%s' cannot be read and is passed over: %s", saved.id, name, error)
            return None
        if hashlib.sha256(data).hexdigest().startswith(saved.id.rpartition("-")[2]):
            return data
        log.warning("'%s' of stream '%s' is damaged or incomplete and is passed over", saved.id, name)
        self._damaged.add(f"{name}/{saved.id}")
        return None

    def _folders(self) -> list[str]:
        found = self.files.listing("streams")
        return [
            f"streams/{entry.name}"
            for entry in found
            if entry.is_folder and STREAM_OR_DOMAIN_NAME.fullmatch(entry.name)
        ]

    def _is_erased(self, folder: str) -> bool:
        return any(found.name == _ERASED for found in self.files.listing(folder))

    def _erase(self, folder: str) -> None:
        for path, found in self._tree(folder):
            if found.name != _ERASED:
                self.files.remove(path)
                failpoint("store.mid_erase")
        self.files.remove(f"{folder}/{_ERASED}")
        self.files.remove(folder)

    def _tree(self, folder: str) -> Iterator[tuple[str, Found]]:
        """Yield every path under `folder`, a folder after what is in it."""
        for found in self.files.listing(folder):
            if found.is_folder:
                yield from self._tree(f"{folder}/{found.name}")
            yield f"{folder}/{found.name}", found


def _folder(name: str) -> str:
    if not STREAM_OR_DOMAIN_NAME.fullmatch(name):
        raise ValueError(f"stream name '{name}' must be 1 to 64 letters, digits, '.', '_' or '-'")
    return f"streams/{name}"


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"digest '{digest}' must be 16 to 64 hexadecimal digits")
    return digest
