"""A disk that hangs raises nothing: somebody must say so, and nobody may wait for it for ever."""

import logging
import threading
import time

import pytest

from tests.tta_server.storage.keepers import SOON_S, Slow, Watched, text
from tta_server.storage.disk import Disk
from tta_server.storage.keeper import Keeper
from tta_server.storage.silence import Silence
from tta_server.storage.store import Store

WAITS = {
    "hold": lambda keeper: keeper.save("camera", 1, text("one")),
    "save_all": lambda keeper: keeper.save("camera", 1, text("one")),
    "keep_input": lambda keeper: keeper.keep_input("camera", "0" * 16, text("window")),
    "snapshot": lambda keeper: keeper.snapshot("camera", 1, text("one")),
    "delete": lambda keeper: keeper.delete("camera"),
    "load": lambda keeper: threading.Thread(target=keeper.read, args=("camera",)).start(),
    "states": lambda keeper: threading.Thread(target=keeper.read, args=("camera",)).start(),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("tta_server.storage.silence._LONG_S", 0.05)
    monkeypatch.setattr("tta_server.storage.silence._LOOK_EVERY_S", 0.01)


@pytest.fixture
def store(tmp_path) -> Slow:
    return Slow(str(tmp_path / "store"))


@pytest.fixture
def keeper(store) -> Keeper:
    keeper = Keeper(store, Watched(store), interval_s=0)
    keeper.start()
    yield keeper
    store.go_on.set()
    keeper.close(SOON_S)


def until(check) -> None:
    end_s = time.monotonic() + SOON_S
    while not check():
        assert time.monotonic() < end_s
        time.sleep(0.01)


@pytest.mark.parametrize("what", WAITS)
def test_whatever_hangs_is_said_once_and_so_is_its_end(store, keeper, monkeypatch, caplog, what):
    hung, does = threading.Event(), getattr(store, what)

    def hangs(*about):
        assert hung.wait(SOON_S)
        return does(*about)

    monkeypatch.setattr(store, what, hangs)
    with caplog.at_level(logging.INFO):
        WAITS[what](keeper)
        until(lambda: "has not answered" in caplog.text)
        time.sleep(0.1)
        assert "has not answered" in keeper.trouble
        hung.set()
        until(lambda: "answers again" in caplog.text)

    assert keeper.trouble == ""
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_a_disk_that_answers_is_not_spoken_of(keeper, caplog):
    for version in range(20):
        keeper.save("camera", version, text("one"))
        time.sleep(0.01)

    assert "answer" not in caplog.text


def test_what_is_lost_at_the_end_is_lost_to_a_disk_that_hangs(store, caplog):
    keeper = Keeper(store, Watched(store), interval_s=0)
    keeper.start()
    store.go_on.clear()
    keeper.save("camera", 1, text("one"))

    assert not keeper.close(0.2)

    assert "the newest states of 1 streams are lost: the storage has not answered for 0 s" in caplog.text
    assert keeper.lacking == "the newest states of 1 streams"
    store.go_on.set()


def test_nothing_is_lacking_once_all_is_written(store):
    keeper = Keeper(store, Watched(store), interval_s=0)
    keeper.start()
    keeper.save("camera", 1, text("one"))

    assert keeper.close(SOON_S)
    assert keeper.lacking == ""


def test_nobody_waits_to_let_go_of_a_folder_that_hangs(tmp_path):
    store = Store(str(tmp_path))
    store.claim()
    assert isinstance(store.files, Disk)

    with store.files._holding:  # as a look at the lock that never ends
        began_s = time.monotonic()
        store.release()

    assert time.monotonic() - began_s < SOON_S
    store.release()


def test_who_waits_longest_counts():
    silence = Silence()
    with silence.waiting():
        time.sleep(0.06)
        with silence.waiting():
            assert silence.trouble == "the storage has not answered for 0 s"
    with silence.waiting():
        assert silence.trouble == ""
