"""Where streams and domains are, as a file has it: numbers in its record, tensors beside."""

from dataclasses import dataclass, replace

import torch

from tta_server.adapters.checkpoint import state_digest
from tta_server.domains.place import Place
from tta_server.domains.space import StyleSpace
from tta_server.models import Tensors
from tta_server.streams.files.stored import Stored, StoredPlace, StoredWhereabouts
from tta_server.streams.stream import Stream
from tta_server.streams.whereabouts import Whereabouts

_CENTRE, _RECENT = "place/centre", "whereabouts/recent"


@dataclass(frozen=True, eq=False)
class Located:
    """Where a stream has been, or where a domain lies.

    Attributes:
        place: Of a domain.
        whereabouts: Of a stream that tells domains apart.
    """

    place: Place | None = None
    whereabouts: Whereabouts | None = None


def name_space(space: StyleSpace | None) -> str:
    """Return what is equal for spaces in which places mean the same; empty without one."""
    return state_digest({"mean": space.mean, "whitener": space.whitener})[:16] if space else ""


def stored_place(stream: Stream, space: str) -> StoredPlace | None:
    """Return what the record of a domain says of its place."""
    return StoredPlace(stream.place.spread, stream.place.images, space) if stream.place else None


def stored_whereabouts(stream: Stream, space: str) -> StoredWhereabouts | None:
    """Return what the record of a stream says of where it has been."""
    found = stream.whereabouts
    return StoredWhereabouts(found.current, found.next, space, list(found.domains)) if found else None


def tensors_of(stream: Stream) -> Tensors:
    """Return what lies beside."""
    found = {_CENTRE: stream.place.centre} if stream.place else {}
    return found | ({_RECENT: torch.from_numpy(stream.whereabouts.recent)} if stream.whereabouts else {})


def locate(stored: Stored, beside: Tensors, space: str) -> Located:
    """Return what a file says.

    Args:
        stored: Its record.
        beside: The tensors beside.
        space: Name of the space in which styles are compared now.

    Raises:
        ValueError: If it says nothing sound of the place of a domain.
    """
    return Located(_place(stored.place, beside, space), _whereabouts(stored.whereabouts, beside, space))


def _place(stored: StoredPlace | None, beside: Tensors, space: str) -> Place | None:
    if stored is None:
        return None
    if stored.space != space:
        raise ValueError("the domain lies among styles of another reference bundle; delete it, or serve that bundle")
    centre = beside.get(_CENTRE)
    if centre is None or centre.dim() != 1 or not centre.isfinite().all():
        raise ValueError("where the domain lies is missing in the file, or damaged")
    return Place(centre.cpu().double(), stored.spread, stored.images)


def _whereabouts(stored: StoredWhereabouts | None, beside: Tensors, space: str) -> Whereabouts | None:
    if stored is None:
        return None
    recent = beside.get(_RECENT)
    if stored.space != space or recent is None or recent.dim() != 2 or not recent.isfinite().all():
        recent = torch.zeros(0, 0)  # styles of another space say nothing here
    domains = range(1, stored.next) if stored.domains is None else stored.domains
    return Whereabouts(recent.cpu().double().numpy(), stored.current, stored.next, tuple(domains))


def go_on(fresh: Whereabouts, found: Whereabouts) -> Whereabouts:
    """Return where a stream had been, for a fresh one of the same name."""
    known = found.recent if found.recent.shape[1] == fresh.recent.shape[1] else fresh.recent
    return replace(found, recent=known)
