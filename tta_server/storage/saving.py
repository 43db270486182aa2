"""How a file is put beside those that are kept of its stream."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from tta_server.storage.files import Files, tried
from tta_server.storage.inventory import Inventory, folder_of
from tta_server.storage.manifest import (
    SUFFIX,
    Kind,
    Saved,
    dump_manifest,
    manifest_generation,
    manifest_name,
    new_id,
    of_kind,
)
from tta_server.storage.owners import Owners
from tta_server.storage.pending import UnsavedState
from tta_server.storage.removal import erase, family, is_erased

_TOGETHER_BYTES = 2**24  # of states, written together or in memory for it


class New(NamedTuple):
    """A state or snapshot that is to be kept; see `Store`."""

    name: str
    version: int
    data: bytes
    generation: int = 0
    kind: Kind = "state"
    note: str = ""


def enough(
    waiting: Iterable[tuple[str, UnsavedState]], most: int, problems: list[Exception]
) -> tuple[dict[str, UnsavedState], list[New]]:
    """Take states until they are enough to be written together; returns them, and what there is to write.

    Args:
        waiting: States that wait, by stream; those that are not taken stay.
        most: How many are enough; fewer, if they are large.
        problems: What goes wrong with one is added to these, and others are taken.
    """
    taken, made, size_bytes = dict[str, UnsavedState](), list[New](), 0
    for name, state in waiting:
        data = tried(state.make)
        if isinstance(data, Exception):
            problems.append(data)
            continue
        taken[name] = state
        made.append(New(name, state.version, data, state.generation))
        size_bytes += len(data)
        if len(made) == most or size_bytes >= _TOGETHER_BYTES:
            break
    return taken, made


class Plan(NamedTuple):
    """How a file is kept.

    Attributes:
        new: What is in it.
        folder: Where.
        saved: What is known of it.
        before: What is there, oldest first.
        manifest: Name of the manifest that is written, too; empty if none is.
        others: Manifests that go.
    """

    new: New
    folder: str
    saved: Saved
    before: list[Saved]
    manifest: str
    others: list[str]

    @property
    def path(self) -> str:
        """Where the file lies."""
        return f"{self.folder}/{self.saved.id}{SUFFIX}"


class Saving:
    """Plan a save and, once the file is written, end it. Nobody else may write of the stream from one to the other."""

    def __init__(self, files: Files, owners: Owners, inventory: Inventory, keep: dict[Kind, int]) -> None:
        """Take where the files are, who has which stream, what is there, and how many are kept of each kind."""
        self._files = files
        self._owners = owners
        self._inventory = inventory
        self._keep = keep

    def plan(self, new: New) -> Plan:
        """Return how a file is kept, and clear away what is left of a stream that was erased.

        Raises:
            LostError: If another server has the stream.
            OSError: If it cannot be seen what is there.
        """
        folder = folder_of(new.name)
        self._owners.expect(new.name, new.generation)
        listing = self._files.listing(folder)
        if is_erased(listing):
            erase(self._files, family(self._files, new.name))
            listing = self._files.listing(folder)
        manifest = manifest_name(new.generation)
        others = [one.name for one in listing if manifest_generation(one.name) not in (None, new.generation)]
        manifest = manifest if new.kind == "snapshot" or others else ""
        kept = self._inventory
        before = kept.saved(new.name, listing) if manifest else kept.counted(new.name, listing, {})
        sequence = self._owners.next([one.sequence for one in before], new.generation)
        digest = hashlib.sha256(new.data).hexdigest()
        id = new_id(new.kind, sequence, new.version, digest)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        saved = Saved(id, new.kind, new.version, digest, len(new.data), now, new.note)
        return Plan(new, folder, saved, before, manifest, others)

    def end(self, plan: Plan) -> str:
        """Have the rest be as it is to be once a file is written; returns the file's id.

        Raises:
            LostError: If another server has the stream now.
            OSError: If it cannot be done; then the file is gone.
        """
        new, saved = plan.new, plan.saved
        whole = self._inventory.whole(new.name, (*plan.before, saved))
        kept = [old for kind, most in self._keep.items() for old in of_kind(whole, kind)[-most:]]
        try:
            self._owners.expect(new.name, new.generation)  # who took it over meanwhile may have loaded without this
            if plan.manifest:
                snapshots = dump_manifest(new.name, of_kind(kept, "snapshot"))
                self._files.write(f"{plan.folder}/{plan.manifest}", snapshots)
        except OSError:
            self._files.remove(plan.path)
            raise
        for each in [*(f"{old.id}{SUFFIX}" for old in plan.before if old not in kept), *plan.others]:
            self._files.remove(f"{plan.folder}/{each}")
        return saved.id
