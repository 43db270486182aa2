"""Callers are watched from a while on, each for as long as his request is under way, and nothing is held longer."""

import asyncio
import gc
import weakref

import pytest

from tta_server.runtime.hung_up import Watched

PATIENCE_S = 30


class Caller:
    """Who hangs up when he is told to."""

    def __init__(self):
        self.hangs_up = asyncio.Event()
        self.is_watched = asyncio.Event()

    async def gone(self):
        self.is_watched.set()
        await self.hangs_up.wait()


async def outlasts(caller):
    with Watched(caller.gone) as hung_up:
        await asyncio.wait_for(caller.is_watched.wait(), PATIENCE_S)
        assert not hung_up.done()
        caller.hangs_up.set()
        await hung_up


def test_whoever_waits_long_is_watched_whenever_he_came():
    async def after(delay_s):
        await asyncio.sleep(delay_s)
        await outlasts(Caller())

    async def ask():
        await asyncio.gather(*(after(0.04 * place) for place in range(4)))
        await outlasts(Caller())  # also once nobody was left to look after

    asyncio.run(ask())


def test_nothing_is_held_of_whoever_is_answered_soon():
    async def ask():
        caller = Caller()
        request = weakref.ref(caller)
        with Watched(caller.gone):
            pass
        del caller
        gc.collect()
        return request()

    assert asyncio.run(ask()) is None


def test_a_watch_ends_with_the_block():
    async def ask():
        caller = Caller()
        with Watched(caller.gone) as hung_up:
            await asyncio.wait_for(caller.is_watched.wait(), PATIENCE_S)
        caller.hangs_up.set()
        await asyncio.sleep(0)
        return hung_up.cancelled()

    assert asyncio.run(ask())


def test_what_goes_wrong_in_a_watch_is_told():
    async def torn():
        raise ConnectionError("torn")

    async def ask():
        with Watched(torn) as hung_up, pytest.raises(ConnectionError, match="torn"):
            await hung_up

    asyncio.run(ask())
