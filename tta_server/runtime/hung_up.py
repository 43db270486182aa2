"""Whether the caller of a request still waits. Nobody looks before a while: most requests are answered by then."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Final
from weakref import WeakKeyDictionary

Gone = Callable[[], Coroutine[Any, Any, object]]
"""Returns when the caller has hung up."""

_AFTER_S = 0.1
_TICK_S = 0.001  # of uvloop's clock


class Watched:
    """Have a caller watched while a block runs, which is given what is done once he has hung up."""

    __slots__ = ("_gone", "_hung_up", "_task", "due_s")

    def __init__(self, gone: Gone) -> None:
        """Take what waits for that."""
        self._gone: Gone | None = gone
        self._task: asyncio.Task[None] | None = None
        self.due_s = 0.0

    def __enter__(self) -> "asyncio.Future[object]":
        loop = asyncio.get_running_loop()
        self._hung_up: asyncio.Future[object] = loop.create_future()
        self.due_s = loop.time() + _AFTER_S
        (_rounds.get(loop) or _rounds.setdefault(loop, _Round())).put(self)
        return self._hung_up

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._gone = None  # which holds the request
        if self._task:
            self._task.cancel()
        self._hung_up.cancel()
        del self._task, self._hung_up  # which hold the loop

    @property
    def is_over(self) -> bool:
        """Whether the block has ended."""
        return self._gone is None

    def begin(self) -> None:
        """Watch from now on."""
        if self._gone:
            self._task = asyncio.get_running_loop().create_task(_watch(self._gone, self._hung_up))


async def _watch(gone: Gone, hung_up: "asyncio.Future[object]") -> None:
    try:
        await gone()
    except Exception as error:
        hung_up.set_exception(error)
    else:
        hung_up.set_result(None)


class _Round:
    """Goes round the callers of one event loop: a timer for each request would cost as much as to read its head."""

    def __init__(self) -> None:
        self._waiting: deque[Watched] = deque()  # the oldest first

    def put(self, each: Watched) -> None:
        if not self._waiting:
            self._come_back(_AFTER_S)
        self._waiting.append(each)

    def _go(self) -> None:
        now_s = asyncio.get_running_loop().time()
        while self._waiting and (self._waiting[0].is_over or self._waiting[0].due_s <= now_s + _TICK_S):
            self._waiting.popleft().begin()
        if self._waiting:
            self._come_back(self._waiting[0].due_s - now_s)

    def _come_back(self, delay_s: float) -> None:
        # In a context of its own: that of the request at hand would be held for as long as others follow.
        asyncio.get_running_loop().call_later(delay_s, self._go, context=Context())


_rounds: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Round]] = WeakKeyDictionary()
