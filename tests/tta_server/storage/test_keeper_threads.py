"""Who writes states: one thread, and a few that help it while somebody waits."""

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.tta_server.storage.keepers import SOON_S, text
from tta_server.storage.audit import Audit
from tta_server.storage.disk import Disk
from tta_server.storage.keeper import Keeper
from tta_server.storage.saving import New
from tta_server.storage.store import Store


def test_states_are_written_side_by_side_once_somebody_waits(tmp_path):
    begun, asked, together = threading.Event(), threading.Event(), threading.Barrier(Disk.callers, timeout=SOON_S)
    names = [f"camera-{number}" for number in range((1 + 2 * Disk.callers) * Disk.together)]

    class Waits(Store):
        def save_all(self, new: Sequence[New]) -> list[str | Exception]:
            begun.set()
            assert len(new) == Disk.together
            if new[0].name == names[0]:  # of a round in which nobody waited at first
                assert asked.wait(SOON_S)
            else:
                together.wait()  # nobody goes on before all are here
            return super().save_all(new)

    store = Waits(str(tmp_path / "store"))
    keeper = Keeper(store, Audit(store.files), interval_s=0)
    for name in names:
        keeper.save(name, 1, text(name))
    keeper.start()
    assert begun.wait(SOON_S)
    with ThreadPoolExecutor(1) as caller:
        flushed = caller.submit(keeper.flush, 2 * SOON_S)
        while not keeper._hurry:
            time.sleep(0.001)
        asked.set()

        assert flushed.result()
    assert {name: store.load(name) for name in store.names()} == {name: name.encode() for name in names}
    keeper.close(SOON_S)


def test_a_batch_that_fails_whole_is_told_of_and_tried_again(tmp_path):
    failing = threading.Event()
    failing.set()

    class Fails(Store):
        def save_all(self, new: Sequence[New]) -> list[str | Exception]:
            if failing.is_set():
                raise MemoryError("none left")
            return super().save_all(new)

    store = Fails(str(tmp_path / "store"))
    keeper = Keeper(store, Audit(store.files), interval_s=0, retry_s=0.001)
    names = [f"camera-{number}" for number in range(5 * Disk.together)]
    for name in names:
        keeper.save(name, 1, text(name))
    keeper.start()

    assert not keeper.flush(0.2)
    assert keeper.trouble == "none left"
    failing.clear()
    assert keeper.flush(SOON_S)
    assert store.names() == sorted(names)
    keeper.close(SOON_S)


@pytest.mark.parametrize("started", [0, 1])
def test_a_system_that_gives_no_more_threads_loses_no_state_and_no_order(tmp_path, monkeypatch, started):
    start, count = threading.Thread.start, itertools.count()

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "storage's helper" and next(count) >= started:
            raise RuntimeError("can't start new thread")
        start(thread)

    store = Store(str(tmp_path / "store"))
    keeper = Keeper(store, Audit(store.files), interval_s=SOON_S)
    keeper.start()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    names = [f"camera-{number}" for number in range(5 * Disk.together)]
    for version in (1, 2):
        for name in names:
            keeper.save(name, version, text(f"{name} {version}"))
        assert keeper.flush(SOON_S)

    assert [store.load(name) for name in names] == [f"{name} 2".encode() for name in names]
    assert keeper.failures == 0
    keeper.close(SOON_S)
