"""Who may write a stream, where several servers share one place.

    streams/<name>/owner-00000007    {"replica": "tta-0", "floor": 3, "address": "http://tta-0.tta:8000"}

Who wants a stream makes the record of the next generation. Of two that try, one gets it, because a record is a file
that must not exist yet; whoever had the stream before has lost it, whether he knows or not. His files cannot pass for
newer ones: the sequence of a file begins with the generation of its owner, so that no lock and no clock is needed. A
domain belongs to whoever has its stream.

A stream that is erased keeps its newest record: `floor` says from which generation on files count.
"""

import json
import secrets
from collections.abc import Iterable
from typing import Final, NamedTuple

from tta_server.names import stream_of_domain
from tta_server.storage.files import Files
from tta_server.storage.manifest import sequence_of

PER_GENERATION: Final = 10**9
"""Files that one owner may write of a stream, and the distance between the sequences of two owners."""

VERSIONS_PER_GENERATION: Final = 10**6
"""An owner of a stream begins at least so many versions after the one before, who may have answered unsaved ones."""

_PREFIX = "owner-"
_SECRET = "secret"  # noqa: S105 (its name)
_NOBODY = "nobody"  # one stream is as good as another


class LostError(OSError):
    """Another server has the stream now: what this one wanted to write of it is dropped, never tried again."""


class Ownership(NamedTuple):
    """One generation of a stream's owners.

    Attributes:
        generation: Counts the owners, from 1.
        replica: The server that has the stream.
        floor: Files of owners before this generation are of a stream that was erased.
        address: Where the server can be asked to hand the stream over; empty if nowhere.
    """

    generation: int
    replica: str
    floor: int = 0
    address: str = ""


class Owners:
    """Make and read the records; any thread may call it."""

    def __init__(self, files: Files, replica: str = "", address: str = "") -> None:
        """Take where the records are.

        Args:
            files: Where.
            replica: What this server is called; empty if it has the place for itself, and needs no records.
            address: Where it can be asked to hand a stream over; empty if nowhere.
        """
        self._files = files
        self._replica = replica
        self._address = address
        self._floors: dict[str, int] = {}  # of streams that this server has had, where that is not 0

    def secret(self) -> str:
        """Return what only those know who share the place; the first who asks makes it up."""
        self._files.create(_SECRET, secrets.token_hex(32).encode())
        return self._files.read(_SECRET).decode()

    def look(self) -> None:
        """Do nothing if the place can be asked whose streams are; the record of one that is damaged is no matter.

        Raises:
            OSError: If it cannot.
        """
        self._files.listing("")  # that nobody has a folder of his own, a network's file system may know from before
        self._generations(_NOBODY)

    def newest(self, stream: str) -> Ownership | None:
        """Return the record that counts, or None if nobody ever had the stream.

        Raises:
            OSError: If it cannot be read.
        """
        return self._looked(stream)[0]

    def acquire(self, stream: str, erasing: int | None = None) -> Ownership:
        """Take a stream over, whoever has it; what is loaded of it afterwards is all that counts.

        Args:
            stream: The stream.
            erasing: If what is there of it is to count no more, the generation of the owner who erases it.

        Raises:
            LostError: If it is to be erased, and another server has taken it since, or this one and has written it.
            OSError: If it cannot be done now.
        """
        while True:
            known, written = self._looked(stream)
            before = known or Ownership(written, "")  # a copy of the place may lack the record
            is_others = before.replica != self._replica or (erasing is not None and written > erasing)
            if erasing is not None and before.generation > erasing and is_others:
                raise LostError(f"stream '{stream}' was taken by another server since")
            generation = before.generation + 1
            floor = before.floor if erasing is None else generation
            mine = Ownership(generation, self._replica, floor, self._address)
            if not self._files.create(_path(stream, generation), _dumped(mine)):
                continue
            if self._newest(stream) != generation:  # the record was made after a newer one had replaced its like
                self._files.remove(_path(stream, generation))
                continue
            for older in self._generations(stream):
                if older < generation:
                    self._files.remove(_path(stream, older))
            if mine.floor:
                self._floors[stream] = mine.floor
            return mine

    def owns(self, stream: str, generation: int) -> bool:
        """Say whether the owner of a generation still has the stream."""
        return self._newest(stream) == generation

    def expect(self, name: str, generation: int) -> None:
        """Do nothing if the owner of a generation still has a stream, or the stream of a domain, or is alone.

        Raises:
            LostError: If another has it.
        """
        if self._replica and not self.owns(stream_of_domain(name), generation):
            raise LostError(f"stream '{stream_of_domain(name)}' belongs to another server now")

    def counts(self, name: str, sequence: int) -> bool:
        """Say whether a file of a stream, or of a domain, was written since the stream was erased last."""
        return sequence >= self._floors.get(stream_of_domain(name), 0) * PER_GENERATION

    def next(self, sequences: Iterable[int], generation: int) -> int:
        """Return the sequence of the next file that the owner of a generation writes, given those that are there."""
        known = [one for one in sequences if not self._replica or one < (generation + 1) * PER_GENERATION]
        return max([generation * PER_GENERATION, *known]) + 1

    def _looked(self, stream: str) -> tuple[Ownership | None, int]:
        """Return the record that counts, and the newest generation that a state or snapshot is of."""
        while True:
            listing = self._files.listing(f"streams/{stream}")
            written = max(((sequence_of(found.name) or 0) // PER_GENERATION for found in listing), default=0)
            generation = max((generation_of(found.name) for found in listing), default=0)
            if not generation:
                return None, written
            try:
                return _parsed(generation, self._files.read(_path(stream, generation))), written
            except FileNotFoundError:  # a newer one took its place
                continue

    def _newest(self, stream: str) -> int:
        return max(self._generations(stream), default=0)

    def _generations(self, stream: str) -> list[int]:
        return [number for found in self._files.listing(f"streams/{stream}") if (number := generation_of(found.name))]


def generation_of(name: str) -> int:
    """Return the generation that a file is the record of; 0 if it is no record."""
    number = name.removeprefix(_PREFIX)
    return int(number) if number != name and number.isascii() and number.isdigit() else 0


def _path(stream: str, generation: int) -> str:
    return f"streams/{stream}/{_PREFIX}{generation:08d}"


def _dumped(record: Ownership) -> bytes:
    return json.dumps({"replica": record.replica, "floor": record.floor, "address": record.address}).encode()


def _parsed(generation: int, data: bytes) -> Ownership:
    try:
        found = json.loads(data)
        return Ownership(generation, str(found["replica"]), int(found["floor"]), str(found["address"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OSError(f"the owner's record of generation {generation} is damaged: {error}") from error
