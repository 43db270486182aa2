"""What goes of a folder when a stream or a domain is erased."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

from tta_server.names import DOMAIN_SIGN, STREAM_OR_DOMAIN_NAME, is_domain, stream_of_domain
from tta_server.storage.failpoints import failpoint
from tta_server.storage.files import Files, Found
from tta_server.storage.manifest import manifest_generation, sequence_of
from tta_server.storage.owners import PER_GENERATION, Owners, generation_of

ERASED: Final = "erased"
"""A stream's folder with this file in it is no more, nor are those of its domains: what is left goes later."""


def is_erased(listing: Sequence[Found]) -> bool:
    """Say whether a folder with these files in it is no more."""
    return any(found.name == ERASED for found in listing)


def tree(files: Files, folder: str) -> Iterator[tuple[str, Found]]:
    """Yield every path under `folder`, a folder after what is in it."""
    for found in files.listing(folder):
        if found.is_folder:
            yield from tree(files, f"{folder}/{found.name}")
        yield f"{folder}/{found.name}", found


def domains_of(files: Files, stream: str) -> list[str]:
    """Return the domains of a stream of which there are files, whatever the stream says of them."""
    found = files.folders("streams", STREAM_OR_DOMAIN_NAME, f"{stream}{DOMAIN_SIGN}")
    return sorted(name for name, there in found.items() if there)


def family(files: Files, name: str) -> list[str]:
    """Return what goes with a stream, itself last; a domain goes alone."""
    return [*([] if is_domain(name) else domains_of(files, name)), name]


def erase(files: Files, names: Sequence[str]) -> None:
    """Erase a family; the last of it has the mark of one that is erased, which goes last."""
    for folder in (f"streams/{one}" for one in names):
        for path, found in list(tree(files, folder)):
            if found.name != ERASED:
                files.remove(path)
                failpoint("store.mid_erase")
        files.remove(f"{folder}/{ERASED}")
        files.remove(folder)


def erase_shared(files: Files, owners: Owners, name: str, generation: int) -> None:
    """Erase what owners up to a generation wrote; of a stream, have a new owner be one of nothing."""
    owner, nameless = owners.newest(stream_of_domain(name)), True
    if owner and owner.floor > generation:  # that was done, and this is what is left
        end, nameless = owner.floor, owner.generation == owner.floor
    elif is_domain(name):
        owners.expect(name, generation)
        end = generation + 1
    else:
        end = owners.acquire(name, erasing=generation).floor
    erase_older(files, name, end, nameless)


def erase_older(files: Files, name: str, generation: int, nameless: bool) -> None:
    """Erase what owners of a stream or domain before a generation wrote, but for their records.

    Args:
        files: Where.
        name: The stream or domain.
        generation: The first whose files stay.
        nameless: Whether files whose names do not say of which generation they are go, too.
    """
    for one in family(files, name):
        folder = f"streams/{one}"
        for path, found in list(tree(files, folder)):
            sequence, manifest = sequence_of(found.name), manifest_generation(found.name)
            written = manifest if sequence is None else sequence // PER_GENERATION
            if not generation_of(found.name) and (nameless if written is None else written < generation):
                files.remove(path)
        if is_domain(one):
            with contextlib.suppress(OSError):  # somebody's file may be in it
                files.remove(folder)
