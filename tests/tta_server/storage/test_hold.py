"""A storage folder that is removed at run time belongs to one server all the same."""

import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.tta_server.storage.keepers import SOON_S
from tta_server.storage.audit import Audit, Entry
from tta_server.storage.keeper import Keeper
from tta_server.storage.store import Store

WRITES = {
    "a state": lambda store: store.save("camera", 2, b"two"),
    "a snapshot": lambda store: store.snapshot("camera", 2, b"two"),
    "a window": lambda store: store.keep_input("camera", "0" * 16, b"window"),
    "a line": lambda store: Audit(store.files).append([Entry("camera", "commit", 1, 2)]),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def first(folder) -> Store:
    store = Store(str(folder))
    store.claim()
    store.save("camera", 1, b"one")
    yield store
    store.release()


@pytest.mark.parametrize("write", WRITES)
def test_who_writes_after_the_folder_was_removed_has_it_again(first, folder, write):
    shutil.rmtree(folder)

    WRITES[write](first)

    with pytest.raises(ValueError, match="in use by another server"):
        Store(str(folder)).claim()


def test_writers_that_find_the_folder_removed_do_not_take_each_other_for_another_server(first, folder):
    names = [f"camera-{number}" for number in range(16)]
    shutil.rmtree(folder)

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda name: first.save(name, 1, b"one"), names))

    assert first.names() == sorted(names)


@pytest.mark.parametrize(("replica", "another"), [("", "tta-1"), ("tta-0", ""), ("", "")])
def test_a_server_that_does_not_share_has_the_folder_for_itself(folder, replica, another):
    first, second = Store(str(folder), replica=replica), Store(str(folder), replica=another)
    first.claim()

    with pytest.raises(ValueError, match="give each its own, or share it"):
        second.claim()

    first.release()
    second.claim()
    second.release()


@pytest.mark.parametrize("write", WRITES)
def test_nobody_writes_into_a_folder_that_another_server_has_taken(first, folder, write):
    shutil.rmtree(folder)
    second = Store(str(folder))
    second.claim()
    second.save("camera", 7, b"seven")

    with pytest.raises(OSError, match="was removed, and another server has it now"):
        WRITES[write](first)

    assert second.load("camera") == b"seven"
    assert [saved.version for saved in second.states("camera")] == [7]
    second.release()


def test_nobody_reads_what_another_server_wrote(first, folder):
    shutil.rmtree(folder)
    second = Store(str(folder))
    second.claim()
    second.save("camera", 7, b"seven")

    with pytest.raises(OSError, match="was removed, and another server has it now"):
        first.load("camera")

    second.release()


def test_a_lock_that_was_removed_alone_is_taken_again(first, folder):
    (folder / "lock").unlink()

    first.save("camera", 2, b"two")

    with pytest.raises(ValueError, match="in use by another server"):
        Store(str(folder)).claim()
    assert first.load("camera") == b"two"


def test_an_idle_server_notices_by_itself(folder, monkeypatch):
    monkeypatch.setattr("tta_server.storage.keeper._HOLD_EVERY_S", 0.01)
    store = Store(str(folder))
    keeper = Keeper(store, Audit(store.files), interval_s=0)
    keeper.start()
    shutil.rmtree(folder)

    waiting = keeper._changed
    with waiting:
        assert waiting.wait_for(lambda: (folder / "lock").exists(), SOON_S)

    with pytest.raises(ValueError, match="in use by another server"):
        Store(str(folder)).claim()
    assert keeper.close(SOON_S)


def claim(folder: str, answers: "multiprocessing.Queue[str]") -> None:
    try:
        Store(folder).claim()
    except ValueError as error:
        answers.put(str(error))
    else:
        answers.put("taken")


def test_another_process_does_not_get_the_folder_either(first, folder):
    shutil.rmtree(folder)
    first.save("camera", 2, b"two")
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = context.Queue()

    other = context.Process(target=claim, args=(str(folder), answers))
    other.start()

    assert "in use by another server" in answers.get(timeout=6 * SOON_S)
    other.join(SOON_S)
