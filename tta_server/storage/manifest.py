"""What is known of each file that is kept of a stream: by its name, and of snapshots by the manifest beside it."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Final, Literal

from tta_server.storage.files import Files, Found

log = logging.getLogger(__name__)

Kind = Literal["state", "snapshot"]

SUFFIX: Final = ".safetensors"
_ID = r"(?P<kind>state|snapshot)-(?P<sequence>\d{8,18})-v(?P<version>\d{1,18})-(?P<digest>[0-9a-f]{16})"
_FILE = re.compile(f"(?P<id>{_ID}){re.escape(SUFFIX)}")
_MANIFEST = re.compile(r"manifest(-(?P<generation>\d{8,18}))?\.json")
_SCHEMA = 1


@dataclass(frozen=True)
class Saved:
    """A state or snapshot that is kept.

    Attributes:
        id: Its name in the store and in the API.
        kind: Whether it was saved by itself or on request.
        version: Version of the stream's state.
        sha256: Digest of the file; of a state, its first 16 digits.
        size_bytes: Size of the file.
        time: When it was saved, ISO 8601 in UTC; empty for a state, and where the manifest was lost.
        note: What whoever asked for it wrote.
    """

    id: str
    kind: Kind
    version: int
    sha256: str
    size_bytes: int
    time: str = ""
    note: str = ""

    @property
    def sequence(self) -> int:
        """Grows with each file of the stream."""
        return int(self.id.split("-")[1])


def new_id(kind: Kind, sequence: int, version: int, sha256: str) -> str:
    """Return the id, and so the name, of a new file."""
    return f"{kind}-{sequence:08d}-v{version}-{sha256[:16]}"


def from_name(found: Found, described: Saved | None) -> Saved | None:
    """Return what a file is by its name, with what the manifest says beside; None if it is no state or snapshot."""
    parts = _FILE.fullmatch(found.name)
    if not parts:
        return None
    kind: Kind = "state" if parts["kind"] == "state" else "snapshot"
    plain = Saved(parts["id"], kind, int(parts["version"]), parts["digest"], found.size_bytes)
    return replace(plain, sha256=described.sha256, time=described.time, note=described.note) if described else plain


def sequence_of(name: str) -> int | None:
    """Return the sequence of a state or snapshot by the name of its file; None if it is neither."""
    parts = _FILE.fullmatch(name)
    return int(parts["sequence"]) if parts else None


def manifest_name(generation: int) -> str:
    """Return the name of the manifest that the owner of a generation writes; 0 where a place has one owner."""
    return f"manifest-{generation:08d}.json" if generation else "manifest.json"


def manifest_generation(name: str) -> int | None:
    """Return whose manifest a file is; None if it is none."""
    found = _MANIFEST.fullmatch(name)
    return int(found["generation"] or 0) if found else None


def of_kind(saved: Sequence[Saved], kind: Kind) -> list[Saved]:
    """Return those of one kind."""
    return [entry for entry in saved if entry.kind == kind]


def dump_manifest(stream: str, snapshots: Sequence[Saved]) -> bytes:
    """Return the manifest of the snapshots of a stream, oldest first, as JSON."""
    content = {"schema": _SCHEMA, "stream": stream, "entries": [asdict(entry) for entry in snapshots]}
    return json.dumps(content, indent=1).encode()


def load_manifest(data: bytes) -> dict[str, Saved]:
    """Return what a manifest says, by file name.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        known = {each.name for each in fields(Saved)}  # a newer server may say more
        told = json.loads(data)["entries"]
        entries = [Saved(**{key: value for key, value in entry.items() if key in known}) for entry in told]
        if not all(isinstance(text, str) for entry in entries for text in (entry.sha256, entry.time, entry.note)):
            raise ValueError("a digest, time or note in it is not text")
        return {f"{entry.id}{SUFFIX}": entry for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a manifest: {error}") from error


def described(files: Files, folder: str, listing: Sequence[Found]) -> dict[str, Saved]:
    """Return what the newest manifest of a folder says, by file name; nothing if there is none that can be read."""
    known = [number for found in listing if (number := manifest_generation(found.name)) is not None]
    if not known:
        return {}
    try:
        return load_manifest(files.read(f"{folder}/{manifest_name(max(known))}"))
    except (OSError, ValueError) as error:
        log.warning("manifest of '%s' is damaged; times and notes of its snapshots are lost: %s", folder, error)
        return {}
