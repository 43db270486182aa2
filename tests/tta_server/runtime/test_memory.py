import ctypes
from pathlib import Path

import pytest

from tta_server.runtime.memory import hand_back


def held_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_was_freed_between_what_is_kept_goes_back_to_the_system():
    blocks = [bytearray(b"x" * 60_000) for _ in range(2000)]  # too small for pages of their own
    del blocks[:-1]
    before_mib = held_mib()

    hand_back()

    assert held_mib() < before_mib - 50
