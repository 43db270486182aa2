"""States and snapshots of streams as files that no crash can spoil. Bytes in, bytes out: no torch in here.

    streams/<name>/state-00000012-v37-<digest>.safetensors     the newest states
    streams/<name>/snapshot-00000009-v30-<digest>.safetensors  what somebody asked for
    streams/<name>/manifest.json                               when and why each snapshot was taken
    streams/<name>/inputs/<digest>.safetensors                 windows that were learnt from, if they are kept

The files are the truth: a name holds the digest of its content, so that a file shows by itself whether it is complete.
The manifest holds what a name cannot: notes and times of snapshots. Order of a save: the file, the manifest if the file
is a snapshot, then what is kept no longer is removed.

Where several servers share the place, each stream has an owner (`owners.py`). Files then begin with his generation, the
manifest is his own, and what is written after he has lost the stream is taken back.
"""

import contextlib
import logging
import re
import threading
from collections.abc import Iterable, Mapping, Sequence

from tta_server.names import STREAM_OR_DOMAIN_NAME, stream_of_domain, stream_or_domain_name
from tta_server.storage.files import Files, tried
from tta_server.storage.inventory import STREAMS, Inventory, folder_of
from tta_server.storage.manifest import SUFFIX, Kind, Saved
from tta_server.storage.owners import Owners, generation_of
from tta_server.storage.places import open_files
from tta_server.storage.removal import ERASED, domains_of, erase, erase_older, erase_shared, family
from tta_server.storage.saving import New, Plan, Saving

log = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{16,64}")
_TURNS = 4096  # names that share a lock wait for one another without need: few, even while 64 are written together
_INPUTS = "inputs"


class Store:
    """What one server keeps under one folder or URL. Any thread may call it; calls for one stream wait for one another.

    Attributes:
        files: Where it is kept.
        replica: What this server is called among those that share the place; empty if it is alone.
        owners: Who has which stream, if the place is shared.
        unerased: Streams and domains of which `claim` found that they are erased, and could not remove the rest.
    """

    def __init__(
        self,
        url: str,
        keep: int = 3,
        keep_snapshots: int = 32,
        inputs_max_bytes: int = 2**30,
        replica: str = "",
        address: str = "",
    ) -> None:
        """Open the place; nothing is written before `claim`.

        Args:
            url: Folder or fsspec URL.
            keep: States kept of each stream; at least 2, because the newest may turn out damaged.
            keep_snapshots: Snapshots kept of each stream; the oldest go first.
            inputs_max_bytes: Most bytes of kept windows of each stream; the oldest go first.
            replica: What this server is called if others share the place; empty takes it for this server alone.
            address: Where the others can ask it to hand a stream over; empty if nowhere.

        Raises:
            ValueError: If the URL cannot be used or a number is out of range.
        """
        if keep < 2 or keep_snapshots < 1:
            raise ValueError(f"store keeps {keep} states and {keep_snapshots} snapshots, expected at least 2 and 1")
        self.files: Files = open_files(url)
        self.replica = replica
        self.owners = Owners(self.files, replica, address)
        self.unerased: list[str] = []
        self._inputs_max_bytes = inputs_max_bytes
        self._inventory = Inventory(self.files, self.owners)
        most: dict[Kind, int] = {"state": keep, "snapshot": keep_snapshots}
        self._saving = Saving(self.files, self.owners, self._inventory, most)
        self._turns = [threading.RLock() for _ in range(_TURNS if self.files.callers > 1 else 1)]

    def claim(self) -> list[str]:
        """Take the store for this process, and finish what a crash interrupted; a shared one is left as it is.

        Returns:
            What `names` does.

        Raises:
            ValueError: If another server has it or it cannot be reached.
            OSError: If the folder cannot be written.
        """
        self.files.claim(alone=not self.replica)
        if self.replica:
            return self.names()
        found = self.files.sweep(STREAMS, STREAM_OR_DOMAIN_NAME)
        for name, there in found.items():
            if ERASED in there:
                try:
                    erase(self.files, family(self.files, name))
                except OSError as error:
                    log.warning("'%s' is erased, but its files cannot be removed yet: %s", name, error)
                    self.unerased.append(name)
        return self._kept(found)

    def hold(self) -> None:
        """Make sure that the store is still this process's.

        Raises:
            OSError: If another server has it now.
        """
        self.files.hold()

    def release(self) -> None:
        """Let another process have it."""
        self.files.release()

    def is_kept(self, stream: str) -> bool:
        """Say whether anything is kept of a stream; that somebody has had it is not enough."""
        return any(not generation_of(found.name) for found in self.files.listing(folder_of(stream)))

    def may_exist(self, stream: str) -> bool:
        """Say whether anything is kept of a stream, or a server has it that may have written nothing yet."""
        owner = self.owners.newest(stream)
        had = owner is not None and owner.floor < owner.generation
        return had or self.is_kept(stream) or bool(domains_of(self.files, stream))

    def take(self, stream: str) -> tuple[int, bool, list[str]]:
        """Take a stream over, whoever has it, and clear away what is left of an earlier one that was erased.

        Returns:
            The generation, whether there were files, be it such that are cleared away, and of which domains there are.

        Raises:
            OSError: If it cannot be done now; not if only what counts no more cannot be cleared away.
        """
        mine = self.owners.acquire(stream)
        there = self.is_kept(stream) or bool(domains_of(self.files, stream))
        if there and mine.floor:
            try:  # if nobody has had it since, nothing that is there is anybody's
                erase_older(self.files, stream, mine.floor, nameless=mine.generation == mine.floor + 1)
            except OSError as error:
                log.warning("what was erased of '%s' is still there: %s", stream, error)
        return mine.generation, there, domains_of(self.files, stream)

    def names(self) -> list[str]:
        """Return the streams that a state or snapshot is kept of, sorted."""
        return self._kept(self.files.folders(STREAMS, STREAM_OR_DOMAIN_NAME))

    def _kept(self, found: Mapping[str, Iterable[str]]) -> list[str]:
        names, erased = list[str](), set[str]()
        for name, there in sorted(found.items()):  # a stream before its domains
            if ERASED in there:
                erased.add(name)
            elif stream_of_domain(name) not in erased and self._inventory.has_state(name, there):
                names.append(name)
        return names

    def save(self, name: str, version: int, data: bytes, generation: int = 0) -> str:
        """Keep the state of a stream; older ones beyond `keep` go.

        Args:
            name: The stream.
            version: Version of the state.
            data: A whole file that says by itself what it belongs to, as `adapters.dump_state` makes it.
            generation: With which this server acquired the stream; 0 where the place is not shared.

        Returns:
            Its id; when this returns the state survives a power cut.

        Raises:
            LostError: If another server has the stream.
            OSError: If it cannot be written; then everything is as before.
        """
        return self._put(New(name, version, data, generation))

    def save_all(self, new: Sequence[New]) -> list[str | Exception]:
        """Keep a file of each of several streams, as `save` and `snapshot` do; a disk takes little more than for one.

        Returns:
            The id of each, or why it is not kept.
        """
        with contextlib.ExitStack() as held:
            for turn in sorted({self._turn_of(each.name) for each in new}):  # all who take several in one order
                held.enter_context(self._turns[turn])
            plans = [tried(self._saving.plan, each) for each in new]
            written = iter(self.files.write_all([(p.path, p.new.data) for p in plans if isinstance(p, Plan)]))
            ends = [plan if isinstance(plan, Exception) else next(written) or plan for plan in plans]
            return [tried(self._saving.end, end) if isinstance(end, Plan) else end for end in ends]

    def snapshot(self, name: str, version: int, data: bytes, note: str = "", generation: int = 0) -> str:
        """Keep a state until `keep_snapshots` newer ones are there; as `save` otherwise."""
        return self._put(New(name, version, data, generation, "snapshot", note))

    def load(self, name: str) -> bytes | None:
        """Return the last complete state of a stream, or None if there is none; damaged ones are passed over."""
        with self._turn(name):
            for saved in reversed(self._inventory.saved(name)):
                if saved.kind == "state" and (data := self._inventory.intact(name, saved)) is not None:
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
        with self._turn(name):
            found = next((saved for saved in self._saved(name) if saved.id == id), None)
            return self._inventory.intact(name, found) if found else None

    def keep_input(self, name: str, digest: str, data: bytes, generation: int = 0) -> None:
        """Keep a window that a stream learnt from, for a later replay; the oldest beyond the limit go.

        Raises:
            OSError: If it cannot be written; a `LostError` if another server has the stream.
        """
        with self._turn(name):
            self.owners.expect(name, generation)
            folder = f"{folder_of(name)}/{_INPUTS}"
            self.files.write(f"{folder}/{_checked(digest)}{SUFFIX}", data)
            kept = sorted(self.files.listing(folder), key=lambda found: found.modified_s)
            excess_bytes = sum(found.size_bytes for found in kept) - self._inputs_max_bytes
            for found in kept[:-1]:
                if excess_bytes > 0:
                    self.files.remove(f"{folder}/{found.name}")
                    excess_bytes -= found.size_bytes

    def read_input(self, name: str, digest: str) -> bytes | None:
        """Return a window that was kept, or None."""
        try:
            return self.files.read(f"{folder_of(name)}/{_INPUTS}/{_checked(digest)}{SUFFIX}")
        except FileNotFoundError:
            return None

    def delete(self, name: str, generation: int = 0) -> None:
        """Erase everything of a stream with its domains, or of a domain; once begun, a crash does not bring it back.

        In a shared place a stream gets a new owner who has nothing; what an earlier one still writes does not count. A
        domain is gone once its stream's file says so.

        Args:
            name: The stream or domain.
            generation: As for `save`.

        Raises:
            LostError: If another server has the stream, and has it since before it was erased.
            OSError: If it cannot be erased now; it may then be half gone, and a second call goes on.
        """
        with self._turn(name):
            if self.replica:
                erase_shared(self.files, self.owners, stream_or_domain_name(name), generation)
            else:
                names = family(self.files, name)
                if any(self.files.listing(folder_of(each)) for each in names):
                    self.files.write(f"{folder_of(name)}/{ERASED}", b"")
                    erase(self.files, names)

    def inputs_bytes(self, name: str) -> int:
        """Return the size of the windows that are kept of a stream."""
        return sum(found.size_bytes for found in self.files.listing(f"{folder_of(name)}/{_INPUTS}"))

    def _turn(self, name: str) -> threading.RLock:
        """Return what whoever reads or writes a stream holds meanwhile."""
        return self._turns[self._turn_of(name)]

    def _turn_of(self, name: str) -> int:
        return hash(name) % len(self._turns)

    def _put(self, new: New) -> str:
        (id,) = self.save_all([new])
        if isinstance(id, Exception):
            raise id
        return id

    def _saved(self, name: str) -> list[Saved]:
        with self._turn(name):
            return self._inventory.saved(name)


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"digest '{digest}' must be 16 to 64 hexadecimal digits")
    return digest
