"""A place that cannot be held: whoever waits is told, and the thread that writes rests between its tries."""

import logging
import shutil
import time
from pathlib import Path

import pytest

from tests.tta_server.storage.keepers import SOON_S, text
from tta_server.storage.audit import Audit
from tta_server.storage.keeper import Keeper
from tta_server.storage.store import Store

ASKED = {
    "a snapshot": lambda keeper: keeper.snapshot("camera", 1, text("one")),
    "a deletion": lambda keeper: keeper.delete("camera"),
}
LOST = {
    "taken by another server": "was removed, and another server has it now",
    "no folder any more": "Not a directory",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def keeper(folder) -> Keeper:
    store = Store(str(folder))
    keeper = Keeper(store, Audit(store.files), interval_s=0, retry_s=30)
    keeper.start()
    yield keeper
    keeper.close(0.1)


def lose(folder: Path, how: str) -> Store | None:
    """Have the folder of a server be no longer its own; returns who has it then."""
    shutil.rmtree(folder)
    if how == "no folder any more":
        folder.write_bytes(b"")
        return None
    other = Store(str(folder))
    other.claim()
    return other


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("asked", ASKED)
def test_who_waits_is_told_and_the_writer_rests(keeper, folder, caplog, how, asked):
    other = lose(folder, how)

    with caplog.at_level(logging.INFO), pytest.raises(OSError, match=LOST[how]):
        ASKED[asked](keeper).result(SOON_S)
    before_s = time.process_time()
    time.sleep(0.3)

    assert time.process_time() - before_s < 0.1
    assert keeper.failures == 1
    assert caplog.text.count("cannot be kept") == 1
    assert len(caplog.records) == 1
    if other:
        other.release()


def test_each_who_asks_is_answered_and_the_log_says_it_once(keeper, folder, caplog):
    other = lose(folder, "taken by another server")

    for _ in range(5):
        with pytest.raises(OSError, match="another server has it now"):
            keeper.delete("camera").result(SOON_S)

    assert len(caplog.records) == 1
    assert keeper.failures == 5
    other.release()


def test_a_deletion_that_was_refused_is_done_once_the_place_can_be_held_again(folder):
    store = Store(str(folder))
    keeper = Keeper(store, Audit(store.files), interval_s=0, retry_s=0.001)
    keeper.start()
    keeper.save("camera", 1, text("one"))
    assert keeper.flush(SOON_S)
    away = folder.with_name("away")
    folder.rename(away)
    folder.write_bytes(b"")

    with pytest.raises(OSError, match="Not a directory"):
        keeper.delete("camera").result(SOON_S)
    keeper.save("camera", 1, text("new"))
    folder.unlink()
    away.rename(folder)

    assert keeper.flush(SOON_S)
    assert store.load("camera") == b"new"
    assert [saved.version for saved in store.states("camera")] == [1]
    assert keeper.close(SOON_S)
