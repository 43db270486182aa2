"""Wait in an event loop for what other threads do; what is done together wakes the loop once."""

import asyncio
from collections import deque
from concurrent.futures import Future
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class _Bell:
    """Wakes a loop for waiters that may go on; any thread may ring it."""

    def __init__(self) -> None:
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._rings = False

    def ring(self, waiter: "asyncio.Future[None]") -> None:
        self._waiters.append(waiter)
        loop = waiter.get_loop()
        if not self._rings and not loop.is_closed():
            self._rings = True
            loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._rings = False  # first: who comes from here on rings again, if it is not seen below
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)


_bells: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Bell]] = WeakKeyDictionary()


async def result_of(work: "Future[T]") -> T:
    """Return what `work` gives; it is cancelled if nobody waits any longer.

    `asyncio.wrap_future` calls the loop for each alone, and leaves a cycle of objects behind.

    Raises:
        asyncio.CancelledError: If it was cancelled.
    """
    loop = asyncio.get_running_loop()
    waiter, bell = loop.create_future(), _bells.get(loop) or _bells.setdefault(loop, _Bell())
    work.add_done_callback(lambda _: bell.ring(waiter))
    try:
        await waiter
    except asyncio.CancelledError:
        work.cancel()
        raise
    if work.cancelled():
        raise asyncio.CancelledError
    try:
        return work.result()
    finally:
        del work  # an error holds this frame, and through it would hold itself and whatever the request has sent
