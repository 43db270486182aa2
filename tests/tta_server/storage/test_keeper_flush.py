"""Who waits until everything is written waits for what there was when he asked, and for no more."""

import threading
from itertools import count

import pytest

from tests.tta_server.storage.keepers import SOON_S, Slow, text
from tta_server.storage.audit import Audit, Entry
from tta_server.storage.keeper import Keeper
from tta_server.storage.saving import New


class Steady(Slow):
    """A store on which something new happens to a stream whenever one is written."""

    keeper: Keeper

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.ended = threading.Event()
        self._versions = count(1)

    def save_one(self, new: New) -> str:
        if not self.ended.is_set():
            next_version = next(self._versions)
            self.keeper.record(Entry("busy", "commit", next_version - 1, next_version))
            self.keeper.save("busy", next_version, text(str(next_version)))
        return super().save_one(new)


@pytest.fixture
def store(tmp_path) -> Steady:
    return Steady(str(tmp_path / "store"))


@pytest.fixture
def keeper(store):
    keeper = Keeper(store, Audit(store.files), interval_s=0, retry_s=0.001)
    store.keeper = keeper
    keeper.start()
    yield keeper
    store.ended.set()
    store.go_on.set()
    assert keeper.close(SOON_S)


def test_what_comes_meanwhile_is_not_waited_for(store, keeper):
    for version in range(1, 6):
        keeper.save("mine", version, text(str(version)))

        assert keeper.flush(SOON_S)
        assert store.load("mine") == str(version).encode()


def test_what_a_round_that_is_under_way_came_too_early_for_is_waited_for(store, keeper):
    store.go_on.clear()
    keeper.save("held", 1, text("held"))
    assert store.reached.wait(SOON_S)
    keeper.save("mine", 1, text("mine"))
    found: list[tuple[bool, bytes | None]] = []
    waiting = threading.Thread(target=lambda: found.append((keeper.flush(SOON_S), store.load("mine"))))
    waiting.start()

    store.go_on.set()
    waiting.join(SOON_S)

    assert found == [(True, b"mine")]


def test_a_round_that_fails_in_part_is_not_enough(store, keeper):
    store.full = True
    keeper.save("mine", 1, text("mine"))

    assert not keeper.flush(0.05)
    store.full = False
    assert keeper.flush(SOON_S)
    assert store.load("mine") == b"mine"


def test_a_round_that_is_cut_short_at_the_end_is_not_enough(tmp_path):
    store = Slow(str(tmp_path / "store"))
    keeper = Keeper(store, Audit(store.files), interval_s=3600)
    names = [f"camera-{number}" for number in range(store.files.together + 1)]
    for name in names:
        keeper.save(name, 1, text(name))
    store.go_on.clear()
    keeper.start()
    assert store.reached.wait(SOON_S)
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(keeper.flush(0.5)))

    assert not keeper.close(0.0)
    waiting.start()
    store.go_on.set()
    waiting.join(SOON_S)

    assert found == [False]
    assert store.names() == sorted(names[:-1])
