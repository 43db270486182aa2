"""Which domains have become alike."""

from collections.abc import Sequence

from tta_server.domains.place import Place


def alike(places: Sequence[Place], limit: float) -> tuple[int, int] | None:
    """Return two learnt places (index >= 1) that have become alike, or None if no two have."""
    return None
