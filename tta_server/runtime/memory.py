"""Memory that was freed, and that the C library keeps for this process."""

import ctypes
import os
from typing import Final

_ARENA_MAX: Final = -8  # what glibc calls this option of `mallopt`
_ARENAS: Final = 2


def share_arenas() -> None:
    """Have all threads take their memory from two places: each would have its own, and keep what its peak has taken.

    Whoever sets `MALLOC_ARENA_MAX`, or the tunable of that name, decides himself. It does nothing where the C library
    is not glibc, and is to be called before there are threads.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    decided = "MALLOC_ARENA_MAX" in os.environ or "malloc.arena_max" in os.environ.get("GLIBC_TUNABLES", "")
    if option and not decided:
        option(_ARENA_MAX, _ARENAS)


def hand_back() -> None:
    """Give it back to the system: a step and the warm-up take a hundred megabytes for a moment each.

    It does nothing where the C library is not glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
