import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tta_server.runtime.memory import hand_back


def held_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


GLIBC = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
PLACES = """
import ctypes, sys, threading
from tta_server.runtime.memory import share_arenas
share_arenas()
library, everybody = ctypes.CDLL(None), threading.Barrier(8)
library.malloc.restype = ctypes.c_void_p
def take():
    library.malloc(5_000)
    everybody.wait()
threads = [threading.Thread(target=take) for _ in range(8)]
[each.start() for each in threads], [each.join() for each in threads]
library.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(library.fopen(sys.argv[1].encode(), b"w"))
library.malloc_info(0, file), library.fclose(file)
"""


def places(folder, **environment):
    """Return how many places threads have taken memory from in a process of its own."""
    found, known = folder / "places.xml", {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"}
    subprocess.run([sys.executable, "-c", PLACES, found], env=known | environment, check=True)
    return found.read_text().count("<heap nr=")


@GLIBC
def test_threads_share_their_memory_unless_somebody_has_decided_otherwise(tmp_path):
    assert places(tmp_path) == 2
    assert places(tmp_path, MALLOC_ARENA_MAX="5") == 5


@GLIBC
def test_what_was_freed_between_what_is_kept_goes_back_to_the_system():
    blocks = [bytearray(b"x" * 60_000) for _ in range(2000)]  # too small for pages of their own
    del blocks[:-1]
    before_mib = held_mib()

    hand_back()

    assert held_mib() < before_mib - 50
