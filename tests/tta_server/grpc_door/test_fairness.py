"""Whoever holds calls or connections of gRPC keeps nobody else out."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import grpc
import pytest

from load_tests import http2
from tests.tta_server.grpc_door.test_door import answering
from tta_server.errors import TooSlow, Unauthorized
from tta_server.grpc_door import door as doors
from tta_server.grpc_door.door import Door
from tta_server.grpc_door.messages import HEALTH, INFERENCE, message
from tta_server.grpc_door.turns import Party, Rota, Shares, Turns
from tta_server.settings_door import LimitsSettings, ServerSettings

CHECK, LIVE, INFER = f"/{HEALTH}/Check", f"/{INFERENCE}/ServerLive", f"/{INFERENCE}/ModelInfer"
READY = b'{"live": true, "ready": true, "model_name": "m", "model_version": "1", "parameters": {}, "outputs": []}'
IMAGE = message("inference.ModelInferRequest")(model_name="m").SerializeToString()
ONE_AT_A_TIME = {"max_body_bytes": 2**20, "max_receiving_bytes": 2**20}
LONG_S = 100.0  # who waits for this fails
ALONE = [("grpc.use_local_subchannel_pool", 1)]


def named(headers: Mapping[bytes, bytes]) -> str:
    """Take any key for its own name."""
    if key := headers.get(b"authorization"):
        return key.decode()
    raise Unauthorized("no key")


@asynccontextmanager
async def opened(admit: Callable[..., str] = named, **limits: float) -> AsyncIterator[str]:
    """Open a door that waits as long as nobody would, while nobody waits; returns its address."""
    sized = LimitsSettings(**({"body_timeout_s": LONG_S, "header_timeout_s": LONG_S} | limits))
    door = Door(answering(200, READY), ServerSettings(keep_alive_s=LONG_S), sized, admit, lambda _: None)
    port = await door.open()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await door.close()


async def held(address: str, calls: int, path: str, key: str = "", window: int | None = None) -> socket.socket:
    """Open a connection on which so many calls wait: for their message, or with a window of 0 for their answer."""
    headers = {"authorization": key} if key else {}
    sent = http2.settings(window) + http2.begun(calls, path, headers, b"" if window is None else http2.NO_MESSAGE)
    connection = await asyncio.to_thread(http2.connected, address, sent)
    await asyncio.sleep(0.3)  # until all of them have begun
    return connection


async def code_of(address: str, path: str, data: bytes = b"", key: str = "", patience_s: float = LONG_S / 2) -> str:
    """Call once on a connection of its own."""
    async with grpc.aio.insecure_channel(address, ALONE) as channel:
        metadata = (("authorization", key),) if key else ()
        call = channel.unary_unary(path)(data, timeout=patience_s, metadata=metadata, wait_for_ready=True)
        return (await call.code()).name


@pytest.mark.parametrize("path", [CHECK, LIVE])
def test_calls_without_a_message_keep_no_probe_waiting(path, monkeypatch):
    if path == LIVE:  # no turn is waited for
        monkeypatch.setattr(doors, "_OPEN_S", LONG_S)
        monkeypatch.setattr(doors, "_OPEN_LEAST_S", LONG_S)

    async def asked() -> str:
        async with opened() as address:
            with await held(address, 60, CHECK):
                return await code_of(address, path, patience_s=30)

    assert asyncio.run(asked()) == "OK"


def test_one_who_holds_his_calls_keeps_no_other_key_waiting(monkeypatch):
    monkeypatch.setattr(doors, "_TURN_S", 1.0)

    async def asked() -> str:
        async with opened(**ONE_AT_A_TIME) as address:
            with await held(address, 60, INFER, "a"):
                return await code_of(address, INFER, IMAGE, "b", patience_s=20)  # sixty turns are sixty seconds

    assert asyncio.run(asked()) == "OK"


@pytest.mark.parametrize("path", [CHECK, INFER])
def test_calls_whose_answers_nobody_reads_keep_nobody_out(path):
    async def asked() -> list[str]:
        async with opened(max_connections=10) as address:  # so twenty calls
            with await held(address, 50, path, "a", window=0):
                return [await code_of(address, CHECK), await code_of(address, INFER, IMAGE, "b")]

    assert asyncio.run(asked()) == ["OK", "OK"]


def test_who_has_as_many_calls_as_he_may_hears_when_to_ask_again():
    async def asked() -> tuple[str, str | bytes | None]:
        async with opened(max_connections=2) as address:  # so two calls of one key
            with await held(address, 2, INFER, "a"):
                async with grpc.aio.insecure_channel(address, ALONE) as channel:
                    call = channel.unary_unary(INFER)(IMAGE, timeout=LONG_S, metadata=(("authorization", "a"),))
                    return (await call.code()).name, dict(await call.trailing_metadata()).get("retry-after")

    assert asyncio.run(asked()) == ("RESOURCE_EXHAUSTED", "1")


def test_a_call_that_has_ended_takes_no_room():
    async def asked() -> list[str]:
        async with opened(max_connections=2) as address:
            return [await code_of(address, INFER, IMAGE, key) for key in ("", "a") * 6]

    assert asyncio.run(asked()) == ["UNAUTHENTICATED", "OK"] * 6


def test_many_calls_at_once_on_one_connection_are_all_answered():
    async def asked() -> set[str]:
        async with opened(max_connections=2000) as address, grpc.aio.insecure_channel(address, ALONE) as channel:
            calls = [channel.unary_unary(CHECK)(b"", timeout=LONG_S) for _ in range(1900)]
            return {(await call.code()).name for call in calls}

    assert asyncio.run(asked()) == {"OK"}


def test_a_new_client_is_answered_once_idle_connections_are_closed():
    async def asked() -> str:
        async with opened(max_connections=3, header_timeout_s=1.0) as address:
            idle = [await asyncio.to_thread(http2.connected, address, http2.settings()) for _ in range(5)]
            found = await code_of(address, LIVE)
            for each in idle:
                each.close()
            return found

    assert asyncio.run(asked()) == "OK"


def test_a_connection_whose_answers_nobody_reads_is_closed_in_time(monkeypatch):
    monkeypatch.setattr(doors, "_MOST_AGE_S", 1.0)

    async def asked() -> bool:
        async with opened(answer_timeout_s=1.0) as address:
            with await held(address, 5, CHECK, window=0) as connection:
                while await asyncio.to_thread(connection.recv, 2**16):
                    pass
                return True

    assert asyncio.run(asked())


def test_those_who_wait_take_turns_by_owner_and_by_connection():
    async def called() -> list[str]:
        line, calls = Rota(), {}
        for call in ("a-1-x", "a-1-y", "a-2-x", "b-3-x", "a-1-z", "b-3-y"):
            calls[future := asyncio.get_running_loop().create_future()] = call
            line.join(Party(*call.split("-")[:2]), future)
        return [calls[line.next()] for _ in range(line.length)]

    assert asyncio.run(called()) == ["a-1-x", "b-3-x", "a-2-x", "b-3-y", "a-1-y", "a-1-z"]


def test_one_who_hangs_up_while_he_waits_takes_nobodys_turn():
    async def taken() -> list[str]:
        turns, order = Turns(1, LONG_S, LONG_S, LONG_S), []

        async def wait(name: str) -> None:
            async with turns.turn(Party(name, name)):
                order.append(name)

        async with turns.turn(Party("first", "first")):
            waiting = [asyncio.create_task(wait(name)) for name in "abcd"]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.sleep(0)
            waiting[1].cancel()  # just as its turn comes
        waiting[2].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await wait("last")
        return order

    assert asyncio.run(taken()) == ["d", "last"]


def test_those_who_wait_while_somebody_gives_way_lose_no_turn():
    async def raised() -> set[type]:
        turns = Turns(2, LONG_S, 0.05, 0.05)

        async def take(held_s: float) -> None:
            async with turns.turn(Party("a", "a")):
                await asyncio.sleep(held_s)

        silent, others = [asyncio.create_task(take(LONG_S)) for _ in range(10)], []
        while not all(each.done() for each in silent):  # at every moment, also while one is told to give way
            others.append(asyncio.create_task(take(0)))
            await asyncio.sleep(0.0001)
        found = await asyncio.gather(*silent, *others, return_exceptions=True)
        async with turns.turn(Party("b", "b")), turns.turn(Party("c", "c")):
            return {type(each) for each in found if each is not None}

    assert asyncio.run(raised()) == {TooSlow}


def test_there_is_always_room_for_one_party_more():
    shares = Shares(100)
    taken = [sum(shares.take(party) for _ in range(200)) for party in "abcdef"]

    assert taken == [50, 25, 13, 6, 3, 2]
    for _ in range(50):
        shares.give_back("a")
    assert shares.take("g")
