"""How often a folder is synced: a disk does many things at once, but each sync has it finish what it is at."""

import os
import threading
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.tta_server.storage.keepers import SOON_S
from tta_server.storage.disk import Disk

NAMES = [f"camera-{number}" for number in range(8)]


class Syncs:
    """Count what is synced, by path; the first sync of `held` waits until `go_on`, and may fail."""

    def __init__(self, monkeypatch, held: Path) -> None:
        self.count: Counter[str] = Counter()
        self.reached, self.go_on, self.fails = threading.Event(), threading.Event(), False
        self._held, self._fsync = str(held), os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, file: int) -> None:
        path = str(Path(f"/proc/self/fd/{file}").readlink())
        self.count[path] += 1
        if path == self._held and self.count[path] == 1:
            self.reached.set()
            assert self.go_on.wait(SOON_S)
            if self.fails:
                raise OSError(5, "Input/output error")
        self._fsync(file)


class Queue:
    """A lock that knows how many have asked for it."""

    def __init__(self) -> None:
        self.asked = 0
        self._counting, self._lock = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._counting:
            self.asked += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path)
    disk.claim()
    (tmp_path / "streams").mkdir()
    yield disk
    disk.release()


def failing(monkeypatch, folder: Path) -> Syncs:
    """Have the first sync of a folder fail."""
    syncs = Syncs(monkeypatch, folder)
    syncs.fails = True
    syncs.go_on.set()
    return syncs


def written(disk: Disk, syncs: Syncs) -> list[Exception | None]:
    """Have each stream written at the same time: all others make their folders while the first one's is synced."""
    disk._naming = queue = Queue()
    with ThreadPoolExecutor(len(NAMES)) as pool:
        first, *others = NAMES
        begun = [pool.submit(disk.write, f"streams/{first}/state", b"1")]
        assert syncs.reached.wait(SOON_S)
        begun += [pool.submit(disk.write, f"streams/{name}/state", b"1") for name in others]
        while queue.asked < len(NAMES):
            threading.Event().wait(0.001)
        syncs.go_on.set()
        return [each.exception(SOON_S) for each in begun]


def test_folders_that_are_made_at_the_same_time_are_synced_together(disk, tmp_path, monkeypatch):
    syncs = Syncs(monkeypatch, tmp_path / "streams")

    assert written(disk, syncs) == [None] * len(NAMES)

    assert syncs.count[str(tmp_path / "streams")] == 2  # that of the first came too early for others
    assert all(syncs.count[str(tmp_path / "streams" / name)] == 1 for name in NAMES)


def test_a_sync_that_fails_serves_nobody(disk, tmp_path, monkeypatch):
    syncs = Syncs(monkeypatch, tmp_path / "streams")
    syncs.fails = True

    first, *others = written(disk, syncs)

    assert isinstance(first, OSError)
    assert others == [None] * len(others)
    assert syncs.count[str(tmp_path / "streams")] == 2


def test_a_stream_that_is_there_has_its_folder_synced_and_no_other(disk, tmp_path, monkeypatch):
    disk.write("streams/camera/state-1", b"1")
    syncs = Syncs(monkeypatch, tmp_path)

    disk.write("streams/camera/state-2", b"2")

    folder = str(tmp_path / "streams" / "camera")
    assert syncs.count == {f"{folder}/state-2.unfinished": 1, folder: 1}


def test_a_folder_whose_sync_failed_is_synced_by_who_tries_again(disk, tmp_path, monkeypatch):
    syncs = failing(monkeypatch, tmp_path / "streams")

    with pytest.raises(OSError, match="Input/output error"):
        disk.write("streams/camera/state", b"1")
    disk.write("streams/camera/state", b"1")
    disk.write("streams/camera/state", b"1")

    assert syncs.count[str(tmp_path / "streams")] == 2


def test_who_finds_a_folder_that_is_not_synced_yet_does_not_count_on_it(disk, tmp_path, monkeypatch):
    syncs = Syncs(monkeypatch, tmp_path)
    syncs.fails = True
    disk._naming = queue = Queue()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(disk.write, "inputs/a", b"1")
        assert syncs.reached.wait(SOON_S)
        second = pool.submit(disk.write, "inputs/b", b"1")
        while queue.asked < 2 and not second.done():
            threading.Event().wait(0.001)
        syncs.go_on.set()
        assert isinstance(first.exception(SOON_S), OSError)
        assert second.exception(SOON_S) is None

    assert syncs.count[str(tmp_path)] == 2


def test_lines_whose_file_is_not_sure_to_survive_are_not_there_and_its_folder_is_synced_again(
    disk, tmp_path, monkeypatch
):
    syncs = failing(monkeypatch, tmp_path / "streams")

    with pytest.raises(OSError, match="Input/output error"):
        disk.append_lines("streams/audit", b"a\n")
    assert disk.read("streams/audit") == b""
    disk.append_lines("streams/audit", b"a\n")

    assert disk.read("streams/audit") == b"a\n"
    assert syncs.count[str(tmp_path / "streams")] == 2


def test_a_file_that_is_said_to_be_there_survives_although_the_sync_of_who_made_it_failed(disk, tmp_path, monkeypatch):
    syncs = failing(monkeypatch, tmp_path / "streams")

    with pytest.raises(OSError, match="Input/output error"):
        disk.create("streams/owner", b"1")

    assert not disk.create("streams/owner", b"2")
    assert disk.read("streams/owner") == b"1"
    assert syncs.count[str(tmp_path / "streams")] == 2


def test_a_write_copies_nothing(disk):
    data = bytes(2**23)
    tracemalloc.start()

    disk.write("streams/camera/state", data)

    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
