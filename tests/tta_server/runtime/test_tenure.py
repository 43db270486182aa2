"""What a server does with a stream that another asks it for, however slow its disk is."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from tta_server.errors import NotReady
from tta_server.runtime import tenure as module
from tta_server.runtime.tenure import Tenure
from tta_server.storage.store import Store

PATIENCE_S = 30


class Device:
    """Remembers what it was told of streams, and does nothing."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def command(self, run: Callable) -> Future:
        done = Future()
        done.set_result(run(self))
        return done

    def refuse_if_full(self) -> None:
        pass

    def hold(self, stream: str, generation: int, there: bool, domains: list[str]) -> None:
        self.told.append(("hold", generation))

    def park(self, stream: str) -> None:
        self.told.append(("park", 0))

    def drop(self, stream: str, generation: int) -> None:
        self.told.append(("drop", generation))


class Disk:
    """Stands in for what writes: writes once it may, if it can."""

    def __init__(self) -> None:
        self.can = True
        self.asked, self.may = threading.Event(), threading.Event()
        self.may.set()

    def flush(self, timeout_s: float) -> bool:
        self.asked.set()
        assert self.may.wait(PATIENCE_S)
        return self.can


class Server:
    """One of several on a place, without a network."""

    def __init__(self, folder: Path, replica: str, address: str = "") -> None:
        self.store = Store(str(folder), replica=replica, address=address)
        self.store.claim()
        self.device, self.disk = Device(), Disk()
        self.tenure = Tenure(self.store, self.disk, self.device, threading.Event())

    async def answer(self) -> str:
        async def ask() -> str:
            return "answered"

        return await asyncio.wait_for(self.tenure.answer("gate", ask, opening=True, changing=False), PATIENCE_S)

    async def hand_over(self) -> None:
        await self.tenure.hand_over("gate")


@pytest.fixture
def server(tmp_path, monkeypatch) -> Server:
    monkeypatch.setattr(module, "_ANSWER_FIRST_S", 0.0)
    monkeypatch.setattr(module.Commands, "drop", Device.drop)
    return Server(tmp_path, "a")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def test_what_is_written_is_known_no_more(server):
    async def moved() -> None:
        await server.answer()
        await server.hand_over()
        await server.answer()

    asyncio.run(moved())

    assert server.device.told == [("hold", 1), ("park", 0), ("drop", 1), ("hold", 2)]


def test_what_was_handed_over_is_not_taken_back_before_whoever_asked_has_had_it(server, tmp_path, monkeypatch):
    other = Server(tmp_path, "b")

    async def moved() -> None:
        await server.answer()
        monkeypatch.setattr(module, "_ANSWER_FIRST_S", PATIENCE_S)
        await server.hand_over()
        asked = asyncio.create_task(server.answer())
        await asyncio.sleep(0.1)
        assert not asked.done()
        monkeypatch.setattr(module, "_ANSWER_FIRST_S", 0.02)  # and so is how often is looked
        await other.answer()
        assert await asked == "answered"

    asyncio.run(moved())

    assert [generation for what, generation in server.device.told if what == "hold"] == [1, 3]
    assert other.device.told == [("hold", 2)]


def test_what_was_handed_over_and_nobody_takes_is_taken_back(server, monkeypatch):
    monkeypatch.setattr(module, "_ANSWER_FIRST_S", 0.05)

    async def left() -> None:
        await server.answer()
        await server.hand_over()
        assert await server.answer() == "answered"

    asyncio.run(left())

    assert server.device.told[-1] == ("hold", 2)


def test_what_cannot_be_written_stays_until_another_has_it(server, tmp_path, monkeypatch):
    other = Server(tmp_path, "b")

    async def refused() -> None:
        await server.answer()
        server.disk.can = False
        with pytest.raises(NotReady, match="not written yet"):
            await server.hand_over()
        assert await server.answer() == "answered"
        assert server.device.told == [("hold", 1), ("park", 0)]

        monkeypatch.setattr(module, "_ASK_WITHIN_S", 0.0)
        other.store.owners.acquire("gate")
        with pytest.raises(NotReady, match="not written yet"):
            await server.hand_over()
        await until(lambda: server.device.told[-1] == ("drop", 1))  # though nobody asks here again

    asyncio.run(refused())


def test_who_asks_for_a_stream_that_goes_waits_until_it_is_gone(server):
    async def meanwhile() -> list[object]:
        await server.answer()
        server.disk.may.clear()
        going = [asyncio.create_task(server.hand_over())]
        await until(server.disk.asked.is_set)
        asked = asyncio.create_task(server.answer())
        going.append(asyncio.create_task(server.hand_over()))
        for _ in range(10):
            await asyncio.sleep(0)
        early = [each.done() for each in (asked, *going)]
        server.disk.may.set()
        return [early, await asked, *await asyncio.gather(*going)]

    assert asyncio.run(meanwhile()) == [[False] * 3, "answered", None, None]
    assert server.device.told == [("hold", 1), ("park", 0), ("drop", 1), ("hold", 2)]


@pytest.mark.parametrize("address", ["nonsense", "http://[::1", "http://a:port", "http://a b"])
def test_an_owner_whose_address_is_none_is_one_that_does_not_answer(server, tmp_path, address):
    other = Server(tmp_path, "b", address)
    other.store.owners.acquire("gate")

    assert asyncio.run(server.answer()) == "answered"
    assert server.device.told == [("hold", 2)]
