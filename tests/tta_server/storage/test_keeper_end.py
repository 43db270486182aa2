"""What is lost at the end is said, and the end comes in time."""

import threading

import pytest

from tests.tta_server.calls import until
from tests.tta_server.storage.keepers import SOON_S, Slow, Watched
from tta_server.storage.audit import Audit, Entry
from tta_server.storage.keeper import Keeper
from tta_server.storage.store import Store


@pytest.fixture
def store(tmp_path) -> Slow:
    return Slow(str(tmp_path / "store"))


def commit(version: int, stream: str = "camera") -> Entry:
    return Entry(stream, "commit", version - 1, version)


def test_everything_that_is_lost_is_counted(store, caplog):
    keeper = Keeper(store, Watched(store), interval_s=0, retry_s=0.001)
    keeper.start()
    store.full = True
    for name in ("a", "b"):
        keeper.record(commit(1, name))
        keeper.save(name, 1, lambda: b"one")
    keeper.keep_input("a", "0" * 16, lambda: b"window")

    assert not keeper.close(0.1)

    expected = "1 kept windows, 2 lines of the audit log, the newest states of 2 streams are lost: [Errno 28] No space"
    assert expected in caplog.text


def test_lines_that_are_lost_are_not_called_no_streams(store, caplog):
    keeper = Keeper(store, Watched(store), interval_s=0, retry_s=0.001)
    keeper.start()
    store.full = True
    keeper.record(commit(1))

    assert not keeper.close(0.1)

    assert "1 lines of the audit log are lost" in caplog.text
    assert "streams" not in caplog.text


def test_a_keeper_that_never_ran_does_not_say_that_all_was_written(store, caplog):
    keeper = Keeper(store, Audit(store.files))
    keeper.save("camera", 1, lambda: b"one")

    assert not keeper.close(0.1)

    assert "the newest states of 1 streams are lost" in caplog.text


def test_what_was_given_up_before_is_said_at_the_end(store, caplog):
    keeper = Keeper(store, Watched(store), interval_s=0, retry_s=0.001)
    keeper.start()
    store.full = True
    for number in range(100):
        keeper.keep_input("camera", f"{number:016x}", lambda: b"window")
    lost = keeper.lost
    assert lost >= 100 - 64

    keeper.close(0.1)

    assert f"{lost} lines of the audit log or kept windows were given up before" in caplog.text


def test_closing_ends_though_the_disk_hangs(store, caplog):
    keeper = Keeper(store, Audit(store.files), interval_s=0)
    keeper.start()
    store.go_on.clear()
    keeper.save("camera", 1, lambda: b"one")
    assert store.reached.wait(SOON_S)
    closed: list[bool] = []

    closer = threading.Thread(target=lambda: closed.append(keeper.close(0.05)))
    closer.start()
    closer.join(SOON_S)

    assert closed == [False]
    assert "the newest states of 1 streams are lost: out of time" in caplog.text
    store.go_on.set()


def test_a_disk_that_has_failed_for_long_is_tried_again_and_again_at_the_end(store):
    keeper = Keeper(store, Watched(store), interval_s=0, retry_s=0.001)
    keeper._rounds._failed_in_a_row = 16  # the next wait would be longer than anybody has
    keeper.start()
    store.full = True
    keeper.save("camera", 1, lambda: b"one")
    until(lambda: keeper.failures == 1)
    closed: list[bool] = []
    closer = threading.Thread(target=lambda: closed.append(keeper.close(SOON_S)))
    closer.start()
    until(lambda: keeper.failures > 2)

    store.full = False

    closer.join()
    assert closed == [True]
    assert store.load("camera") == b"one"


class Hung:
    """Have a method of a store hang until it may go on."""

    def __init__(self, monkeypatch, store: Store, what: str) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        does = getattr(store, what)

        def hangs(*about):
            self.reached.set()
            assert self.go_on.wait(SOON_S)
            return does(*about)

        monkeypatch.setattr(store, what, hangs)


@pytest.mark.parametrize("what", ["hold", "snapshot"])
def test_a_snapshot_that_is_lost_at_the_end_is_lacking_and_who_waits_is_told(store, monkeypatch, caplog, what):
    hung, keeper = Hung(monkeypatch, store, what), Keeper(store, Audit(store.files), interval_s=0)
    keeper.start()
    kept = [keeper.snapshot("camera", version, lambda: b"one") for version in (1, 2)]
    assert hung.reached.wait(SOON_S)

    assert not keeper.close(0.1)

    assert "2 snapshots are lost" in caplog.text
    assert keeper.lacking == "2 snapshots"
    for each in kept:
        with pytest.raises(OSError, match="the store is closed"):
            each.result(SOON_S)
    keeper.close(0.1)
    assert keeper.lacking == "2 snapshots"
    hung.go_on.set()
    keeper._thread.join(SOON_S)
    assert keeper.failures == 0


@pytest.mark.parametrize("replica", ["", "a"])
def test_an_erasure_that_hangs_at_the_end_is_lacking_and_told_once_it_is_done(tmp_path, monkeypatch, replica):
    store = Store(str(tmp_path / "store"), replica=replica)
    generation = store.owners.acquire("camera").generation if replica else 0
    hung, keeper = Hung(monkeypatch, store, "delete"), Keeper(store, Audit(store.files), interval_s=0)
    keeper.start()
    erased = keeper.delete("camera", generation)
    assert hung.reached.wait(SOON_S)
    behind = keeper.delete("roof", generation)

    assert not keeper.close(0.1)

    assert keeper.lacking == "2 erasures"
    with pytest.raises(OSError, match="the store is closed"):
        behind.result(SOON_S)
    hung.go_on.set()
    assert erased.result(SOON_S) is None
    keeper._thread.join(SOON_S)
    assert keeper.failures == 0


def test_a_snapshot_that_nobody_waits_for_any_more_is_not_written(store):
    keeper = Keeper(store, Audit(store.files), interval_s=0)
    keeper.snapshot("camera", 1, lambda: b"one").cancel()
    keeper.start()

    assert keeper.close(SOON_S)
    assert store.snapshots("camera") == []


def test_a_line_that_is_no_json_is_refused_and_holds_up_nothing(store):
    audit = Audit(store.files)
    keeper = Keeper(store, audit, interval_s=0)
    keeper.start()

    with pytest.raises(TypeError):
        keeper.record(Entry("bad", "mode", 1, 1, extra={"mode": object()}))
    keeper.record(commit(1))

    assert keeper.close(SOON_S)
    assert [entry.stream for entry in audit.entries()] == ["camera"]
