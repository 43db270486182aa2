"""What operators may do with states as files: snapshots that the server keeps, and files that come and go."""

from concurrent.futures import Future
from typing import Any

from tta_server.errors import NotFound, NotReady
from tta_server.names import is_domain
from tta_server.runtime.commands.desk import Desk, Who
from tta_server.runtime.commands.domain_commands import DomainCommands
from tta_server.storage.store import Store
from tta_server.streams.files.shelf import Shelf


class StateCommands:
    """Run operators' commands about states as files; the device thread alone may call it."""

    def __init__(self, desk: Desk, domains: DomainCommands, shelf: Shelf, store: Store) -> None:
        """Take the streams and where they are kept."""
        self._desk = desk
        self._domains = domains
        self._shelf = shelf
        self._store = store

    def snapshot(self, name: str, note: str) -> "Future[str]":
        """Keep the state until it is deleted; returns the snapshot's id to come: then call `note_snapshot`.

        Raises:
            NotFound: If there is no such stream.
            Conflict: If it keeps a state for each of its domains.
        """
        return self._shelf.snapshot(self._desk.one_state(name), note)

    def note_snapshot(self, name: str, snapshot: str, who: Who) -> None:
        """Write down that a snapshot was kept.

        Raises:
            NotFound: If there is no such stream any more.
        """
        stream = self._desk.streams.existing(name)
        self._desk.changed(stream, "snapshot", stream.standing, who, {"snapshot": snapshot})

    def restore(self, name: str, snapshot: str, who: Who) -> dict[str, Any]:
        """Take over a snapshot's state.

        Raises:
            NotFound: If there is no such stream or snapshot.
            Conflict: If it keeps a state for each of its domains.
            BadRequest: If the snapshot belongs to other weights or another adapter.
            NotReady: If the storage cannot be read now.
        """
        stream = self._desk.one_state(name)
        try:
            data = self._store.read(name, snapshot)
        except OSError as error:
            raise NotReady(f"snapshot '{snapshot}' cannot be read now: {error.strerror or error}; ask again") from error
        if data is None:
            raise NotFound(f"stream '{name}' has no snapshot '{snapshot}'")
        adopted = self._shelf.adopted(stream.method, data)
        self._desk.go_on(stream, adopted, "restore", who, {"snapshot": snapshot})
        return self._desk.told(stream)

    def export(self, name: str) -> bytes:
        """Return a stream's state as a file; of a domain also where it lies.

        Raises:
            NotFound: If there is no such stream.
            Conflict: If it keeps a state for each of its domains.
        """
        return self._shelf.export(self._desk.one_state(name))

    def adopt(self, name: str, data: bytes, who: Who) -> dict[str, Any]:
        """Take over the state in a file, which `export` made here or on another server.

        A stream that is not there is opened. In a stream that tells domains apart the file opens a domain.

        Raises:
            NotFound: If a domain is named that is not there.
            StreamsFull: If the stream is new and there is no room for it.
            Conflict: If the stream has as many domains as it may have.
            BadRequest: If it is no state file, belongs to other weights or another adapter, or does not say where the
                domain lies that it would open.
        """
        streams, methods = self._desk.streams, self._desk.methods
        with streams.at_work():
            if is_domain(name):
                streams.summary(name)
            known = streams.existing(name) if name in streams else None
            method = known.method if known else methods.default
            adopted = self._shelf.adopted(method, data)
            opens = known.whereabouts is not None if known else self._domains.told_apart
            placed = self._shelf.placed(data) if opens else None
            stream = known or self._desk.open(name, streams.modes.usual(name), method)
            if placed:
                self._domains.check_room(stream)
                return self._desk.told(self._domains.open(stream, placed, adopted, who, {}))
            self._desk.go_on(stream, adopted, "import", who, {})
            return self._desk.told(stream)
