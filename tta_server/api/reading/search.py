"""Find something in a large body without keeping other threads from the interpreter for long."""

import mmap
from collections.abc import Sequence
from typing import TypeAlias

Buffer: TypeAlias = bytes | mmap.mmap
"""A body; a slice of either is bytes."""

_WINDOW_BYTES = 2**18  # what is looked through between two turns of others: less than a tenth of a millisecond


def first_of(body: Buffer, marks: Sequence[bytes], start: int) -> int | None:
    """Return where the first of some marks begins, from `start` on; None if there is none."""
    for at in range(start, len(body), _WINDOW_BYTES):
        ends = at + _WINDOW_BYTES - 1  # of a mark, all but its first byte may lie behind the window
        if found := [place for mark in marks if (place := body.find(mark, at, ends + len(mark))) >= 0]:
            return min(found)
    return None
