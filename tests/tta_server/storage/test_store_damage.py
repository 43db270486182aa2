"""What crashes, power cuts, damaged files and full disks cost: never what was acknowledged."""

import contextlib
import errno
import itertools
import json
import logging
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tta_server.storage.crashes import Crash, PowerCuts, armed
from tests.tta_server.storage.stores import everything, path_of, reopened
from tta_server.storage.failpoints import POINTS
from tta_server.storage.saving import New
from tta_server.storage.store import Store

FUZZ = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
STORE_POINTS = [point for point in POINTS if point.startswith("store.")]


@FUZZ
@given(share=st.floats(0, 1, exclude_max=True), data=st.binary(min_size=1, max_size=300))
def test_a_truncated_state_is_passed_over_for_the_one_before(share, data):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.save("camera", 1, b"before")
        path = path_of(Path(folder), "camera", store.save("camera", 2, data))

        path.write_bytes(data[: int(len(data) * share)])

        assert store.load("camera") == b"before"


@FUZZ
@given(at=st.integers(0, 99), bit=st.integers(0, 7))
def test_a_flipped_bit_is_passed_over_for_the_state_before(at, bit):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.save("camera", 1, b"before")
        path = path_of(Path(folder), "camera", store.save("camera", 2, bytes(100)))
        damaged = bytearray(100)
        damaged[at] ^= 1 << bit

        path.write_bytes(damaged)

        assert store.load("camera") == b"before"


def test_a_damaged_state_does_not_take_the_place_of_a_whole_one(tmp_path):
    store = Store(str(tmp_path), keep=2)
    for version in (1, 2):
        id = store.save("camera", version, b"%d" % version)
    path_of(tmp_path, "camera", id).write_bytes(b"")
    assert store.load("camera") == b"1"

    store.save("camera", 3, b"3")

    assert [saved.version for saved in store.states("camera")] == [1, 3]


def test_passing_over_a_damaged_state_is_logged(local, tmp_path, caplog):
    id = local.save("camera", 1, b"one")
    path_of(tmp_path / "store", "camera", id).write_bytes(b"on")

    with caplog.at_level(logging.WARNING):
        assert local.load("camera") is None

    assert f"'{id}' of stream 'camera' is damaged or incomplete" in caplog.text


manifests = st.binary(max_size=60) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["entries", "id", "x"]), inner),
    max_leaves=6,
).map(lambda content: json.dumps(content).encode())


@FUZZ
@given(manifest=manifests | st.just(b"[" * 100_000))
def test_whatever_the_manifest_holds_the_last_state_is_found(manifest):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for version in (1, 2):
            store.save("camera", version, b"%d" % version)

        (Path(folder) / "streams/camera/manifest.json").write_bytes(manifest)

        assert store.load("camera") == b"2"
        assert [saved.version for saved in store.states("camera")] == [1, 2]
        store.save("camera", 3, b"3")
        assert store.load("camera") == b"3"


def test_a_lost_manifest_costs_notes_only(local, tmp_path):
    id = local.snapshot("camera", 7, b"seven", note="before the storm")
    (tmp_path / "store/streams/camera/manifest.json").unlink()

    (saved,) = local.snapshots("camera")

    assert (saved.id, saved.version, saved.size_bytes, saved.note) == (id, 7, 5, "")


@pytest.mark.parametrize("point", STORE_POINTS)
@pytest.mark.parametrize("hit", range(1, 9))
def test_a_crash_anywhere_leaves_the_last_complete_state(local, tmp_path, point, hit):
    done = 0
    with armed(f"{point}={hit}"):
        try:
            for version in range(1, 7):
                local.save("camera", version, b"%d" % version)
                done = version
        except Crash:
            pass

    again = reopened(local, tmp_path / "store")

    found = int(again.load("camera") or 0)
    assert found in (done, done + 1)
    assert not any(path.endswith(".unfinished") for path in everything(tmp_path / "store"))
    again.save("camera", 9, b"9")
    assert again.load("camera") == b"9"
    assert len(again.states("camera")) <= 3
    again.release()


@pytest.mark.parametrize("names_survive", [False, True])
def test_a_power_cut_anywhere_leaves_the_last_state_that_was_acknowledged(tmp_path, names_survive):
    root, numbers = tmp_path / "store", itertools.count()
    store = Store(str(root), keep=2)
    store.claim()
    acknowledged: dict[str, int] = {}
    noted: dict[str, list[str]] = {"camera": [], "door": []}

    def check() -> None:
        left = tmp_path / f"left-{next(numbers)}"
        disk.leave(left, names_survive)
        for name, version in acknowledged.items():
            assert int(Store(str(left)).load(name) or 0) in (version, version + 1)
        for name, notes in noted.items():
            assert [saved.note for saved in Store(str(left)).snapshots(name)][: len(notes)] == notes
        shutil.rmtree(left)

    disk = PowerCuts(root, check)
    with disk.recorded():
        for version in range(1, 5):
            if version % 2:
                saved = store.save_all([New(name, version, b"%d" % version) for name in ("camera", "door")])
                assert all(isinstance(id, str) for id in saved)
                acknowledged |= {"camera": version, "door": version}
            for name in ("camera", "door"):
                if not version % 2:
                    store.save(name, version, b"%d" % version)
                acknowledged[name] = version
                store.snapshot(name, version, b"%d" % version, f"note {version}")
                noted[name].append(f"note {version}")

    assert next(numbers) > 100
    store.release()


@pytest.mark.parametrize(
    "point", ["store.before_write", "store.mid_write", "store.before_fsync", "store.before_rename"]
)
@pytest.mark.parametrize(("kind", "hit"), [("save", 1), ("snapshot", 1), ("snapshot", 2)])
@pytest.mark.parametrize("error", ["enospc", "eio"])
def test_a_disk_that_fails_leaves_everything_as_it_was(local, tmp_path, point, kind, hit, error):
    local.save("camera", 1, b"one")
    before = everything(tmp_path / "store")

    with armed(f"{point}={hit}:{error}"), pytest.raises(OSError, match=point) as caught:
        getattr(local, kind)("camera", 2, b"two")

    assert caught.value.errno == getattr(errno, error.upper())
    assert everything(tmp_path / "store") == before
    assert local.load("camera") == b"one"
    local.save("camera", 3, b"three")
    assert local.load("camera") == b"three"


@pytest.mark.parametrize("point", STORE_POINTS)
@pytest.mark.parametrize("hit", range(1, 8))
def test_a_crash_in_a_deletion_brings_nothing_back_once_it_began(local, tmp_path, point, hit):
    for version in (1, 2, 3):
        local.save("camera", version, b"%d" % version)
    local.snapshot("camera", 3, b"3")
    local.keep_input("camera", "0" * 16, b"window")

    with armed(f"{point}={hit}"), contextlib.suppress(Crash):
        local.delete("camera")
    root = tmp_path / "store"
    begun = not (root / "streams/camera").exists() or (root / "streams/camera/erased").exists()
    again = reopened(local, root)

    assert again.load("camera") == (None if begun else b"3")
    assert begun == (everything(root) == ["streams"])
    again.release()


def test_the_next_process_clears_what_a_crash_left_of_streams_and_of_nothing_else(local, tmp_path):
    local.save("camera", 1, b"one")
    local.keep_input("camera", "0" * 16, b"window")
    left = ["camera/state-2.unfinished", "camera/inputs/window.unfinished"]
    others = [".snapshot@/camera/state-2.unfinished", "state-2.unfinished"]
    for path in (tmp_path / "store/streams" / name for name in (*left, *others)):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"half")

    again = reopened(local, tmp_path / "store")

    assert [name for name in (*left, *others) if (tmp_path / "store/streams" / name).exists()] == others
    assert again.names() == ["camera"]
    assert again.load("camera") == b"one"
    assert again.inputs_bytes("camera") == len(b"window")
    again.release()


def test_a_stream_that_was_deleted_can_be_saved_again_after_a_crash(local, tmp_path):
    local.save("camera", 1, b"old")
    with armed("store.mid_erase=1"), pytest.raises(Crash):
        local.delete("camera")

    local.save("camera", 1, b"new")

    assert local.load("camera") == b"new"
    assert [saved.version for saved in local.states("camera")] == [1]
