"""How often a folder is synced: a disk does many things at once, but each sync has it finish what it is at."""

import os
import threading
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.tta_server.storage.crashes import armed
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


def written(disk: Disk, names: list[str] = NAMES) -> list[Exception | None]:
    """Have a file of each stream written, together."""
    return disk.write_all([(f"streams/{name}/state", name.encode()) for name in names])


def test_what_is_written_together_is_there_and_syncs_the_folder_of_all_once(disk, tmp_path, monkeypatch):
    syncs = Syncs(monkeypatch, tmp_path)

    assert written(disk) == [None] * len(NAMES)

    folders = [f"{tmp_path}/streams/{name}" for name in NAMES]
    each = Counter([*folders, *(f"{folder}/state.unfinished" for folder in folders)])
    assert syncs.count == each + Counter([f"{tmp_path}/streams"])
    assert [disk.read(f"streams/{name}/state") for name in NAMES] == [name.encode() for name in NAMES]


def test_nothing_is_renamed_before_all_is_synced_but_what_failed(disk, tmp_path, monkeypatch):
    events, replace = [], os.replace
    syncs = failing(monkeypatch, tmp_path / "streams" / NAMES[1] / "state.unfinished")
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append(syncs.count.total()), replace(*paths)))

    outcomes = written(disk)

    assert [isinstance(outcome, OSError) for outcome in outcomes] == [name == NAMES[1] for name in NAMES]
    assert events == [len(NAMES) + 1] * (len(NAMES) - 1)
    assert list((tmp_path / "streams" / NAMES[1]).iterdir()) == []


@pytest.mark.parametrize("point", ["before_write", "mid_write", "before_fsync", "before_rename"])
@pytest.mark.parametrize("error", ["enospc", "eio"])
def test_what_fails_of_one_spoils_no_other(disk, tmp_path, point, error):
    written(disk)

    with armed(f"store.{point}=3:{error}"):
        outcomes = disk.write_all([(f"streams/{name}/state", b"new") for name in NAMES])

    assert [isinstance(outcome, OSError) for outcome in outcomes] == [number == 2 for number in range(len(NAMES))]
    contents = [(tmp_path / "streams" / name / "state").read_bytes() for name in NAMES]
    assert contents == [NAMES[2].encode() if number == 2 else b"new" for number in range(len(NAMES))]
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_sync_of_the_folder_of_all_that_fails_is_tried_again_for_the_next(disk, tmp_path, monkeypatch):
    syncs = failing(monkeypatch, tmp_path / "streams")

    first, *others = written(disk)

    assert isinstance(first, OSError)
    assert others == [None] * len(others)
    assert syncs.count[str(tmp_path / "streams")] == 2


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_whatever_a_sync_raises_on_whichever_thread_its_file_is_not_said_to_be_there(
    disk, tmp_path, monkeypatch, error
):
    def fails(file: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fails)

    assert written(disk) == [error] * len(NAMES)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("state")]


@pytest.mark.parametrize(
    "put",
    [
        lambda disk: disk.write("new/folder/file", b"1"),
        lambda disk: disk.create("new/folder/file", b"1"),
        lambda disk: disk.append_lines("new/folder/file", b"1\n"),
    ],
)
def test_who_puts_the_first_file_in_a_folder_has_the_folder_survive(disk, tmp_path, monkeypatch, put):
    syncs = Syncs(monkeypatch, tmp_path / "unsynced")

    put(disk)

    assert all(syncs.count[str(folder)] for folder in (tmp_path, tmp_path / "new", tmp_path / "new/folder"))


def test_writing_leaves_no_file_open(disk, tmp_path, monkeypatch):
    failing(monkeypatch, tmp_path / "streams" / NAMES[1] / "state.unfinished")
    before = len(list(Path("/proc/self/fd").iterdir()))

    written(disk)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


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

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(disk.write, "inputs/a", b"1")
        assert syncs.reached.wait(SOON_S)
        second = pool.submit(disk.write, "inputs/b", b"1")
        assert second.exception(SOON_S) is None
        syncs.go_on.set()
        assert isinstance(first.exception(SOON_S), OSError)

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
