"""Kill a process that saves, at random and at every failpoint; what it acknowledged must be there, whole."""

import contextlib
import math
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.saver import STREAMS, content, entry, open_store, save, version_of, window
from tests.processes import PROCESSES
from tta_server.storage.failpoints import POINTS

LONGEST_S = 0.3
PATIENCE_S = 30.0


class Saver:
    """The process, and what it told."""

    def __init__(self, folder: Path, seed: int, points: str = "") -> None:
        self.told: list[tuple[str, int]] = []
        self._here, there = PROCESSES.Pipe(duplex=False)
        self._process = PROCESSES.Process(target=save, args=(str(folder), seed, points, there), daemon=True)
        self._process.start()
        there.close()

    def kill(self, after_s: float) -> int:
        """Kill it some time after it first told something; return its exit status."""
        self._listen(PATIENCE_S, most=1)
        self._listen(after_s)
        self._process.kill()
        return self.end()

    def end(self) -> int:
        """Wait until it is gone and everything that it told was heard; return its exit status."""
        self._listen(PATIENCE_S)
        self._process.join(PATIENCE_S)
        self._here.close()
        return self._process.exitcode

    def _listen(self, longest_s: float, most: float = math.inf) -> None:
        until_s, count = time.monotonic() + longest_s, 0
        with contextlib.suppress(EOFError, ConnectionError):
            while count < most and self._here.poll(max(0.0, until_s - time.monotonic())):
                self.told.append(self._here.recv())
                count += 1


class Promises:
    """What must be on disk, by what was said so far."""

    def __init__(self) -> None:
        self.least = dict.fromkeys(STREAMS, 0)
        self.may_be_gone = dict.fromkeys(STREAMS, True)

    def hear(self, told: list[tuple[str, int]]) -> None:
        for name, version in told:
            self.may_be_gone[name] = version <= 0
            if version:
                self.least[name] = version if version > 0 else 1 - version

    def check(self, folder: Path) -> int:
        """Open the store as the next server does; return how many streams have a state."""
        store, audit = open_store(str(folder))
        store.claim()
        found = {name: store.load(name) for name in STREAMS}
        lines = list(audit.entries())
        for name, data in found.items():
            told = [line.version_after for line in lines if line.stream == name]
            assert told == list(range(1, len(told) + 1)), f"lines of '{name}' have gaps or repeat"
            if data is None:
                assert self.may_be_gone[name], f"'{name}' is gone"
                continue
            version = version_of(data)
            assert data == content(name, version), f"version {version} of '{name}' is not what was saved"
            assert version >= self.least[name], f"'{name}' is at {version}, but {self.least[name]} was acknowledged"
            assert version <= len(told), f"'{name}' is at {version}, but the log ends at {len(told)}"
            assert next(line.state for line in lines if (line.stream, line.version_after) == (name, version)) == (
                entry(name, version).state
            )
            for saved in store.snapshots(name):
                assert store.read(name, saved.id) == content(name, saved.version)
            self._check_windows(folder, name)
        assert not list(folder.rglob("*.unfinished"))
        store.release()
        return sum(data is not None for data in found.values())

    def _check_windows(self, folder: Path, name: str) -> None:
        for path in (folder / "streams" / name / "inputs").glob("*"):
            assert path.read_bytes() == window(int(path.stem, 16))


def run(folder: Path, promises: Promises, seed: int, points: str = "") -> list[tuple[str, int]]:
    """Let a process save until it is killed at random, check what it left, and return what it told."""
    saver = Saver(folder, seed, points)
    status = saver.kill(random.Random(seed).uniform(0, LONGEST_S))
    promises.hear(saver.told)
    promises.check(folder)
    assert status == -signal.SIGKILL  # it did not die of itself
    return saver.told


def test_after_a_kill_at_any_moment_every_stream_has_its_last_complete_state(tmp_path, kills):
    promises, told = Promises(), 0

    for seed in range(kills):
        told += len(run(tmp_path / "store", promises, seed))

    assert told > kills  # else nothing was tested
    assert promises.check(tmp_path / "store") >= 2


@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_at_a_failpoint_every_stream_has_its_last_complete_state(tmp_path, kills, point):
    promises = Promises()

    for seed in range(max(1, kills // 20)):
        hit = random.Random(f"{point} {seed}").randint(1, 10 if point == "store.mid_erase" else 60)
        saver = Saver(tmp_path / "store", seed, f"{point}={hit}")
        status = saver.end()
        promises.hear(saver.told)
        promises.check(tmp_path / "store")
        assert status == -signal.SIGKILL  # it got there


@pytest.mark.parametrize("error", ["enospc", "eio"])
@pytest.mark.parametrize("point", ["store.mid_write", "store.before_fsync", "audit.mid_append", "store.before_rename"])
def test_a_disk_that_fails_once_costs_nothing(tmp_path, point, error):
    assert run(tmp_path / "store", Promises(), 1, f"{point}=3:{error}")


@pytest.mark.parametrize("point", ["store.mid_write", "audit.mid_append"])
def test_a_disk_that_fails_for_good_keeps_what_was_there(tmp_path, point):
    promises = Promises()
    run(tmp_path / "store", promises, 1)

    run(tmp_path / "store", promises, 2, f"{point}=20+:enospc")

    assert promises.check(tmp_path / "store") >= 2
    assert run(tmp_path / "store", promises, 3)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk of `size` of its own, or skip the test where that is not allowed."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_what_was_there_and_room_is_used_again(tmp_path):
    promises = Promises()
    with small_disk(tmp_path / "disk", "3m") as disk:
        for seed in range(3):
            run(disk / "store", promises, seed)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass  # full
        run(disk / "store", promises, 4)
        assert promises.check(disk / "store") >= 2

        filler.unlink()

        assert run(disk / "store", promises, 5)


def test_a_truncated_newest_file_costs_one_version(tmp_path):
    promises, chance, truncated = Promises(), random.Random(0), 0
    for seed in range(5):
        run(tmp_path / "store", promises, seed)
        store, _ = open_store(str(tmp_path / "store"))
        for name in STREAMS:
            whole = [state for state in store.states(name) if store.read(name, state.id) is not None]
            if len(whole) < 2:
                continue
            newest = tmp_path / "store/streams" / name / f"{whole[-1].id}.safetensors"
            os.truncate(newest, chance.randrange(whole[-1].size_bytes))

            assert store.load(name) == content(name, whole[-2].version)

            promises.least[name] = whole[-2].version
            truncated += 1

    assert truncated > 5
