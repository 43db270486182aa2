"""Which files there are of a stream, which of them count, and which are whole."""

import errno
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tta_server.names import stream_or_domain_name
from tta_server.storage.files import Files, Found
from tta_server.storage.manifest import SUFFIX, Saved, described, from_name, sequence_of
from tta_server.storage.owners import Owners
from tta_server.storage.removal import is_erased

log = logging.getLogger(__name__)

STREAMS: Final = "streams"


class Inventory:
    """What is kept of each stream. Nobody may write of a stream meanwhile."""

    def __init__(self, files: Files, owners: Owners) -> None:
        """Take where the files are, and who says which of them count."""
        self._files = files
        self._owners = owners
        self._damaged: set[str] = set()  # found so: not counted as kept, gone with the next save

    def saved(self, name: str, listing: Sequence[Found] | None = None) -> list[Saved]:
        """Return what files there are, oldest first, with what the manifest says of them."""
        folder = folder_of(name)
        listing = self._files.listing(folder) if listing is None else listing
        return self.counted(name, listing, described(self._files, folder, listing))

    def counted(self, name: str, listing: Sequence[Found], known: Mapping[str, Saved]) -> list[Saved]:
        """Return what of a listing counts, oldest first, with what is known of each beside its name."""
        if is_erased(listing):
            return []
        saved = [from_name(found, known.get(found.name)) for found in listing]
        counted = [one for one in saved if one and self._owners.counts(name, one.sequence)]
        return sorted(counted, key=lambda entry: entry.sequence)

    def has_state(self, name: str, files: Iterable[str]) -> bool:
        """Say whether a state or snapshot that counts is among the files of a stream."""
        known = (sequence_of(file) for file in files)
        return any(sequence is not None and self._owners.counts(name, sequence) for sequence in known)

    def intact(self, name: str, saved: Saved) -> bytes | None:
        """Return a file, or None if it is not whole.

        Raises:
            OSError: If it cannot be read now.
        """
        try:
            data = self._files.read(f"{folder_of(name)}/{saved.id}{SUFFIX}")
        except OSError as error:
            if error.errno != errno.EIO and not isinstance(error, FileNotFoundError):  # it may pass, a bad sector not
                raise
            log.warning("'%s' of stream '%s' cannot be read and is passed over: %s", saved.id, name, error)
            return None
        if hashlib.sha256(data).hexdigest().startswith(saved.id.rpartition("-")[2]):
            return data
        log.warning("'%s' of stream '%s' is damaged or incomplete and is passed over", saved.id, name)
        self._damaged.add(f"{name}/{saved.id}")
        return None

    def whole(self, name: str, saved: Iterable[Saved]) -> list[Saved]:
        """Return those of which nobody has found that they are not."""
        return [one for one in saved if f"{name}/{one.id}" not in self._damaged]


def folder_of(name: str) -> str:
    """Return the folder of a stream or domain.

    Raises:
        ValueError: If nothing can have that name.
    """
    return f"{STREAMS}/{stream_or_domain_name(name)}"
