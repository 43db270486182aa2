"""The audit log: one line of JSON for whatever happened to a stream's state, appended and never changed.

Several servers on one place write a log each, and whoever reads sees them as one: all streams by time, one stream in
the order in which it went from server to server, whatever their clocks say.

Lines go before states: when the state of version v is on disk, so is every line up to v. After a crash the log may
therefore be ahead of the states; the `load` line that a restarted server writes says by its digest which state it
went on from.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from heapq import merge
from itertools import islice
from typing import Any, Final, Literal, get_args

from tta_server.names import stream_of_domain
from tta_server.storage.files import Files, Found
from tta_server.storage.owners import VERSIONS_PER_GENERATION

log = logging.getLogger(__name__)

Event = Literal[
    "create",  # the stream is new; its state is the source's
    "load",  # the stream goes on after a restart
    "begin",  # a new domain answers with the statistics of its first images
    "commit",  # a step was taken over
    "reject",  # a step was dropped
    "skip",  # a window was not learnt from
    "failed",  # a step raised an error
    "rollback",  # the stream went back to an earlier state
    "reset",  # the stream went back to the source
    "snapshot",  # `extra.snapshot` was kept
    "restore",  # the stream went back to the snapshot that `extra.snapshot` names
    "import",  # the stream got a state from outside
    "delete",  # everything of the stream was erased
    "mode",
    "freeze",
    "settings",
    "open",  # the stream met what it had not seen: `extra.domain` is to learn it
    "merge",  # two domains had become alike: `extra.domain` goes on, `extra.merged` is gone
    "forget",  # `extra.domain` is gone: it made room for another, or an operator erased it
    "rename",  # an operator calls the domain `extra.title`
    "offer",  # the streams `extra.to` were given the domain to start from
    "drift",  # the stream's input has begun to drift, or to look like the source's again: `extra.state` says which
    "calibrate",  # a home for all is taken from images that come: `extra.state` says how far that is
    "aside",  # the stream cannot go on; its file is kept as it is
]
EVENTS: Final[tuple[Event, ...]] = get_args(Event)

_FOLDER = "audit"
_BLOCK_BYTES = 2**16
_PAUSE_S = 0.0005  # after one in which nothing is: so whoever reads a large log leaves the interpreter to others


def now() -> str:
    """Return the time as the log has it: ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        stream: The stream.
        event: What happened, from a closed set; in lines of newer servers also what this one has no name for.
        version_before: Version of the state before.
        version_after: Version after; the same if the state did not change.
        cause: Why, from the guard's closed set, or empty.
        reason: The same in a sentence.
        batch: Digest of the window, or None.
        rows: Images in the window.
        state: Digest of the state after, where it changed or was loaded, or None.
        who: "engine", or what the API calls the caller.
        time: ISO 8601 in UTC.
        extra: What only this event has, such as `stack`: slot and size of the stack that a step was part of.
    """

    stream: str
    event: Event
    version_before: int
    version_after: int
    cause: str = ""
    reason: str = ""
    batch: str | None = None
    rows: int = 0
    state: str | None = None
    who: str = "engine"
    time: str = field(default_factory=now)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_line(self) -> bytes:
        """Return the entry as one line of JSON, with its newline; control characters in it are escaped."""
        return json.dumps(asdict(self)).encode() + b"\n"

    def told(self) -> dict[str, Any]:
        """Return what the API says of it, where the event is called the verdict."""
        content = asdict(self)
        return {"verdict" if key == "event" else key: value for key, value in content.items()}


class Audit:
    """The log, as numbered segments under `audit/`. One thread appends; any thread may read."""

    def __init__(self, files: Files, segment_bytes: int = 4 * 2**20, keep: int = 64, replica: str = "") -> None:
        """Prepare; nothing is written yet.

        Args:
            files: Where it is kept, such as `Store.files`. An object store cannot append, so there each append writes
                the newest segment anew: make segments smaller.
            segment_bytes: Size from which a new segment is begun.
            keep: Segments kept; the oldest go first.
            replica: What this server is called if others write logs beside; empty if it is alone.
        """
        self._files = files
        self._folder = f"{_FOLDER}/{replica}" if replica else _FOLDER
        self._segment_bytes = segment_bytes
        self._keep = keep

    def append(self, entries: Iterable[Entry]) -> None:
        """Write entries in order; when this returns they survive a power cut.

        Raises:
            OSError: If they cannot be written; then none is.
        """
        lines = b"".join(entry.as_line() for entry in entries)
        if not lines:
            return
        segments = self._segments(self._folder)
        newest = segments[-1] if segments else None
        if newest is None or newest.size_bytes >= self._segment_bytes:
            number = _number(newest) + 1 if newest else 1
            self._files.append_lines(f"{self._folder}/{number:08d}.jsonl", lines)
            for old in segments[: max(0, len(segments) + 1 - self._keep)]:
                self._files.remove(f"{self._folder}/{old.name}")
        else:
            self._files.append_lines(f"{self._folder}/{newest.name}", lines)

    def entries(self, stream: str = "", domains: bool = False) -> Iterator[Entry]:
        """Yield the entries of one stream, or all, oldest first; what a crash tore is left out.

        Args:
            stream: Its name, or that of a domain; empty is all.
            domains: Whether those of its domains come, too.
        """
        logs = [self._log(folder, stream, domains=domains) for folder in self._folders()]
        yield from merge(*logs, key=_order(stream))

    def begins(self) -> bool:
        """Say whether the log has its first lines; the oldest are removed once there are too many."""
        first = [self._segments(folder)[:1] for folder in self._folders()]
        return all(_number(segment) == 1 for segments in first for segment in segments)

    def newest(self, stream: str = "", limit: int = 100) -> list[Entry]:
        """Return at most `limit` entries of one stream, or all, newest first."""
        logs = [self._log(folder, stream, newest_first=True) for folder in self._folders()]
        return list(islice(merge(*logs, key=_order(stream), reverse=True), limit))

    def _folders(self) -> list[str]:
        """Return where logs are: that of a server that was alone, and one of each that was not."""
        return [_FOLDER, *(f"{_FOLDER}/{found.name}" for found in self._files.listing(_FOLDER) if found.is_folder)]

    def _log(self, folder: str, stream: str, newest_first: bool = False, domains: bool = False) -> Iterator[Entry]:
        segments = self._segments(folder)
        for segment in reversed(segments) if newest_first else segments:
            yield from self._read(folder, segment, stream, newest_first, domains)

    def _segments(self, folder: str) -> list[Found]:
        return [found for found in self._files.listing(folder) if _number(found) > 0]

    def _read(self, folder: str, segment: Found, stream: str, newest_first: bool, domains: bool) -> Iterator[Entry]:
        try:
            content = self._files.read(f"{folder}/{segment.name}")
        except FileNotFoundError:  # rotated away since
            return
        named = json.dumps(stream).encode() if stream else b""  # only lines that hold it are parsed, which takes long
        named = named.removesuffix(b'"') if domains else named
        blocks = list(_blocks(content))
        for start, stop in reversed(blocks) if newest_first else blocks:
            block = content[start:stop]
            if named not in block:
                time.sleep(_PAUSE_S)
                continue
            lines = block.split(b"\n")
            for index in reversed(range(len(lines))) if newest_first else range(len(lines)):
                line = lines[index]
                if named not in line:
                    continue
                entry = _parsed(line)
                # The last may be torn, or still be written; one that lacks its newline only counts from the beginning.
                if entry is None and line and index + 1 < len(lines):
                    number = content.count(b"\n", 0, start) + index + 1
                    log.warning("line %d of audit segment %s is damaged and is left out", number, segment.name)
                if entry and stream in ("", entry.stream, stream_of_domain(entry.stream) if domains else ""):
                    yield entry


def _blocks(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield where blocks of whole lines begin and end; other threads have their turns between two."""
    start = 0
    while start < len(content):
        stop = content.find(b"\n", start + _BLOCK_BYTES) + 1 or len(content)
        yield start, stop
        start = stop


def _order(stream: str) -> Callable[[Entry], Any]:
    """Return by what lines of several servers are merged: of one stream by its owners, whatever their clocks say."""
    return _turn if stream else lambda entry: entry.time


def _turn(entry: Entry) -> tuple[int, str]:
    """Return what lines of a stream are sorted by: which of its owners wrote them, and for one that was alone, when."""
    return entry.version_before // VERSIONS_PER_GENERATION, entry.time


def _number(segment: Found) -> int:
    stem, _, ending = segment.name.partition(".")
    return int(stem) if ending == "jsonl" and stem.isascii() and stem.isdigit() else 0


def _parsed(line: bytes) -> Entry | None:
    try:
        content = json.loads(line)
        if "event" not in content:  # lines of older servers
            content["event"] = content.pop("verdict")
        known = {each.name for each in fields(Entry)}
        entry = Entry(**{key: value for key, value in content.items() if key in known})
        versions = isinstance(entry.version_before, int) and isinstance(entry.version_after, int)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return entry if versions and isinstance(entry.event, str) and isinstance(entry.stream, str) else None
