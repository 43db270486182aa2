"""What is written, in which order, and what a disk that fails costs."""

import errno
import logging

import pytest

from tests.tta_server.storage.crashes import armed
from tests.tta_server.storage.keepers import SOON_S, Slow, Watched, text
from tta_server.storage.audit import Audit, Entry
from tta_server.storage.keeper import Keeper
from tta_server.storage.store import Store


@pytest.fixture
def store(tmp_path) -> Slow:
    return Slow(str(tmp_path / "store"))


@pytest.fixture
def audit(store) -> Watched:
    return Watched(store)


@pytest.fixture
def keeper(store, audit) -> Keeper:
    keeper = Keeper(store, audit, interval_s=0, retry_s=0.001)
    keeper.start()
    yield keeper
    store.full = False
    store.go_on.set()
    keeper.close(SOON_S)


def commit(version: int, stream: str = "camera") -> Entry:
    return Entry(stream, "commit", version - 1, version)


def hold(store: Slow, keeper: Keeper) -> None:
    """Have the writer hang in the save of another stream."""
    store.go_on.clear()
    keeper.save("held", 1, text("held"))
    assert store.reached.wait(SOON_S)


def test_what_is_saved_reaches_the_store(store, keeper):
    keeper.save("camera", 1, text("one"))

    assert keeper.flush(SOON_S)
    assert store.load("camera") == b"one"
    assert keeper.behind_s == 0
    assert (keeper.failures, keeper.trouble) == (0, "")


def test_of_several_states_that_wait_the_newest_is_written(store, keeper):
    hold(store, keeper)
    for version in (1, 2, 3):
        keeper.save("camera", version, text(str(version)))
    store.go_on.set()

    assert keeper.flush(SOON_S)
    assert [call for call in store.calls if call[1] == "camera"] == [("save", "camera", 3)]


def test_saving_does_not_wait_for_a_disk_that_hangs(store, keeper):
    hold(store, keeper)

    keeper.save("camera", 1, text("one"))
    keeper.record(commit(1))
    keeper.keep_input("camera", "0" * 16, text("window"))

    assert not any(call[1] == "camera" for call in store.calls)
    assert keeper.behind_s > 0


def test_a_state_that_waits_can_be_read(store, keeper):
    hold(store, keeper)
    keeper.save("camera", 1, text("one"))

    assert keeper.read("camera") == b"one"
    assert keeper.read("held") == b"held"


def test_a_state_on_disk_can_be_read(keeper):
    keeper.save("camera", 1, text("one"))
    keeper.flush(SOON_S)

    assert keeper.read("camera") == b"one"
    assert keeper.read("nobody") is None


def test_windows_go_before_lines_and_lines_before_states(store, keeper):
    hold(store, keeper)
    for version in (1, 2):
        keeper.keep_input("camera", f"{version:016x}", text("window"))
        keeper.record(commit(version))
        keeper.save("camera", version, text(str(version)))
    store.go_on.set()

    assert keeper.flush(SOON_S)
    assert [call for call in store.calls if call[1] == "camera"] == [
        ("input", "camera", f"{1:016x}"),
        ("input", "camera", f"{2:016x}"),
        ("line", "camera", 1),
        ("line", "camera", 2),
        ("save", "camera", 2),
    ]


def test_a_snapshot_answers_with_its_id(store, keeper):
    id = keeper.snapshot("camera", 4, text("four"), "before the storm").result(SOON_S)

    assert store.read("camera", id) == b"four"
    assert [saved.note for saved in store.snapshots("camera")] == ["before the storm"]


def test_a_snapshot_that_cannot_be_written_raises(keeper):
    with armed("store.mid_write=1:enospc"), pytest.raises(OSError, match="No space left"):
        keeper.snapshot("camera", 4, text("four")).result(SOON_S)


def test_a_deleted_stream_leaves_nothing_on_disk_nor_waiting(store, keeper):
    keeper.save("camera", 1, text("one"))
    keeper.flush(SOON_S)
    hold(store, keeper)
    keeper.save("camera", 2, text("two"))
    keeper.keep_input("camera", "0" * 16, text("window"))

    deleted = keeper.delete("camera")

    assert keeper.read("camera") is None
    store.go_on.set()
    deleted.result(SOON_S)
    assert keeper.flush(SOON_S)
    assert store.names() == ["held"]
    assert store.read_input("camera", "0" * 16) is None


def test_a_deletion_while_the_state_is_being_written_wins(store, keeper):
    store.go_on.clear()
    keeper.save("camera", 1, text("one"))
    assert store.reached.wait(SOON_S)

    deleted = keeper.delete("camera")
    store.go_on.set()

    deleted.result(SOON_S)
    assert keeper.flush(SOON_S)
    assert store.names() == []
    assert keeper.read("camera") is None


def test_a_stream_that_comes_back_after_its_deletion_is_kept(store, keeper):
    hold(store, keeper)
    keeper.save("camera", 7, text("old"))
    keeper.delete("camera")
    keeper.keep_input("camera", "1" * 16, text("window"))
    keeper.save("camera", 1, text("new"))

    assert keeper.read("camera") == b"new"
    store.go_on.set()
    assert keeper.flush(SOON_S)
    assert store.load("camera") == b"new"
    assert store.read_input("camera", "1" * 16) == b"window"


def test_a_full_disk_loses_nothing_and_is_logged_once(store, audit, keeper, caplog):
    keeper.save("camera", 1, text("one"))
    keeper.flush(SOON_S)
    store.full = True

    with caplog.at_level(logging.INFO):
        for version in (2, 3):
            keeper.record(commit(version))
            keeper.save("camera", version, text(str(version)))
        assert not keeper.flush(0.1)
        assert keeper.failures > 1
        assert "No space left" in keeper.trouble
        assert keeper.read("camera") == b"3"
        store.full = False
        assert keeper.flush(SOON_S)

    assert store.load("camera") == b"3"
    assert [entry.version_after for entry in audit.entries()] == [2, 3]
    assert caplog.text.count("cannot be kept") == 1
    assert caplog.text.count("are kept again") == 1
    assert keeper.trouble == ""


def test_no_state_is_written_while_its_line_cannot_be(store, audit, keeper, monkeypatch):
    def fail(entries):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", fail)
        keeper.record(commit(1))
        keeper.save("camera", 1, text("one"))
        assert not keeper.flush(0.05)

        assert store.load("camera") is None
    assert keeper.flush(SOON_S)
    assert store.load("camera") == b"one"


def test_states_do_not_wait_for_windows_that_cannot_be_written(store, keeper, monkeypatch):
    def fail(name, digest, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "keep_input", fail)
    keeper.keep_input("camera", "0" * 16, text("window"))
    keeper.save("camera", 1, text("one"))

    assert not keeper.flush(0.1)
    assert store.load("camera") == b"one"


def test_one_state_that_cannot_be_made_does_not_hold_up_the_others(store, keeper):
    def broken() -> bytes:
        raise RuntimeError("the device is gone")

    keeper.save("a", 1, broken)
    keeper.save("b", 1, text("one"))

    assert not keeper.flush(0.1)
    assert store.load("b") == b"one"
    assert keeper.trouble == "the device is gone"
    keeper.save("a", 2, text("two"))
    assert keeper.flush(SOON_S)


def test_what_waits_for_a_failing_disk_is_bounded(store, keeper):
    store.full = True
    for number in range(100):
        keeper.keep_input("camera", f"{number:016x}", text("window"))

    assert 100 - 64 <= keeper.lost <= 100


def test_closing_writes_everything_and_lets_another_server_in(store, audit):
    keeper = Keeper(store, audit, interval_s=3600)
    keeper.start()
    keeper.save("camera", 1, text("one"))
    keeper.flush(SOON_S)
    keeper.record(commit(2))
    keeper.save("camera", 2, text("two"))

    assert keeper.close(SOON_S)
    assert store.load("camera") == b"two"
    assert len(list(audit.entries())) == 1
    Store(str(store.files._root)).claim()


def test_between_rounds_there_is_a_pause(store, audit):
    keeper = Keeper(store, audit, interval_s=3600)
    keeper.start()
    keeper.save("camera", 1, text("one"))
    keeper.flush(SOON_S)
    keeper.save("door", 1, text("one"))
    assert keeper.flush(SOON_S)  # in a hurry there is none

    for version in (2, 3, 4):
        keeper.save("camera", version, text(str(version)))
    keeper.close(SOON_S)

    assert [call for call in store.calls if call[1] == "camera"] == [("save", "camera", 1), ("save", "camera", 4)]


def test_closing_with_a_full_disk_says_what_is_lost(store, audit, caplog):
    keeper = Keeper(store, audit, interval_s=0, retry_s=0.001)
    keeper.start()
    store.full = True
    keeper.save("camera", 1, text("one"))

    assert not keeper.close(0.1)
    assert "the newest states of 1 streams are lost: [Errno 28] No space left on device" in caplog.text
    with pytest.raises(OSError, match="closed"):
        keeper.delete("camera")
    with pytest.raises(OSError, match="closed"):
        keeper.snapshot("camera", 1, text("one"))


def test_an_erasure_that_fails_is_told_and_tried_again_before_anything_of_that_name_is_written(store, keeper):
    keeper.save("camera", 1, text("old"))
    keeper.flush(SOON_S)
    store.full = True

    with pytest.raises(OSError, match="No space left"):
        keeper.delete("camera").result(SOON_S)
    assert keeper.read("camera") is None
    keeper.save("camera", 1, text("new"))
    store.full = False

    assert keeper.flush(SOON_S)
    assert store.load("camera") == b"new"
    assert [saved.version for saved in store.states("camera")] == [1]
    erased = max(index for index, call in enumerate(store.calls) if call == ("delete", "camera"))
    assert store.calls.index(("save", "camera", 1), 1) > erased


def test_who_no_longer_waits_for_an_answer_does_not_hurt_the_writer(store, keeper):
    hold(store, keeper)
    keeper.delete("camera").cancel()
    keeper.snapshot("camera", 1, text("one")).cancel()
    store.go_on.set()

    assert keeper.snapshot("camera", 2, text("two")).result(SOON_S)
    assert (keeper.failures, [saved.version for saved in store.snapshots("camera")]) == (0, [2])


def test_a_second_server_on_the_same_folder_does_not_start(store, audit, keeper, tmp_path):
    other = Store(str(tmp_path / "store"))

    with pytest.raises(ValueError, match="in use by another server"):
        Keeper(other, Audit(other.files)).start()
