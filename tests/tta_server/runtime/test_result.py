"""Waiting in an event loop for what other threads do."""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest

from tta_server.runtime.result import result_of

PATIENCE_S = 30


def test_what_a_thread_gives_or_raises_comes_through():
    async def ask(pool):
        assert await result_of(pool.submit(int, "7")) == 7
        with pytest.raises(ValueError, match="invalid literal"):
            await result_of(pool.submit(int, "seven"))

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(ask(pool))


def test_what_is_done_by_many_threads_at_once_all_comes_through():
    async def ask(pool):
        waiting = [result_of(pool.submit(int, each)) for each in range(2000)]
        return await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)

    with ThreadPoolExecutor(8) as pool:
        assert asyncio.run(ask(pool)) == list(range(2000))


def test_what_is_done_together_wakes_the_loop_once():
    works = [Future() for _ in range(5)]

    async def ask():
        loop, calls = asyncio.get_running_loop(), []
        waiting = [loop.create_task(result_of(work)) for work in works]
        await asyncio.sleep(0)
        call, loop.call_soon_threadsafe = loop.call_soon_threadsafe, lambda *a: (calls.append(a), call(*a))
        thread = threading.Thread(target=lambda: [work.set_result(None) for work in works])
        thread.start()
        thread.join()  # the loop has no turn before all are done
        del loop.call_soon_threadsafe
        await asyncio.gather(*waiting)
        return len(calls)

    assert asyncio.run(ask()) == 1


def test_work_that_nobody_waits_for_is_cancelled_and_cancelled_work_ends_the_wait():
    async def ask(left, dropped):
        waiting = [asyncio.ensure_future(result_of(work)) for work in (left, dropped)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        dropped.cancel()
        return await asyncio.gather(*waiting, return_exceptions=True)

    left, dropped = Future(), Future()

    found = asyncio.run(ask(left, dropped))

    assert left.cancelled()
    assert [type(each) for each in found] == [asyncio.CancelledError] * 2


def test_nothing_is_left_for_the_collector():
    async def ask():
        work: Future[None] = Future()
        timer = threading.Timer(0.001, work.set_result, [None])
        timer.start()
        await result_of(work)
        timer.join()  # it holds the work, too
        return weakref.ref(work)

    gc.disable()
    try:
        assert asyncio.run(ask())() is None
    finally:
        gc.enable()


def test_an_error_holds_nothing_of_what_was_asked():
    class Body:
        pass

    def fails(body: Body) -> None:
        raise ValueError

    async def ask(pool: ThreadPoolExecutor) -> weakref.ref[Body]:
        body = Body()
        held = weakref.ref(body)
        work = pool.submit(fails, body)
        del body
        with suppress(ValueError):
            await result_of(work)
        del work
        await asyncio.wrap_future(pool.submit(int))  # the thread holds the last that it did until there is more
        return held

    gc.disable()
    try:
        with ThreadPoolExecutor(1) as pool:
            assert asyncio.run(ask(pool))() is None
    finally:
        gc.enable()
