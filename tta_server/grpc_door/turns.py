"""Messages on their way: gRPC says nothing of one before it is whole, so that their number is what bounds them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tta_server.errors import TooSlow
from tta_server.settings_door import LimitsSettings

_TURN_S = 1.0


class Turns:
    """So many messages are read at a time; while others wait, none of them takes longer than a second."""

    def __init__(self, limits: LimitsSettings, at_once: int | None = None) -> None:
        """Read as many at a time as the server has room for if each is as large as it may be; or so many at most."""
        self._most_s = limits.body_timeout_s
        self._free = asyncio.Semaphore(at_once or limits.receiving_bytes // limits.max_body_bytes)
        self._waiting = 0
        self._begun: dict[asyncio.Timeout, float] = {}

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it until the block ends.

        Raises:
            TooSlow: If the block takes too long.
        """
        loop = asyncio.get_running_loop()
        self._waiting += 1
        if self._free.locked():
            for reading, begun_s in self._begun.items():
                reading.reschedule(begun_s + self._turn_s())
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            async with asyncio.timeout(self._turn_s()) as reading:
                self._begun[reading] = loop.time()
                try:
                    yield
                finally:
                    del self._begun[reading]
        except TimeoutError as error:
            raise TooSlow(
                f"the message took longer than {self._most_s:g} s (limits.body_timeout_s), or than {_TURN_S:g} s while "
                "others waited"
            ) from error
        finally:
            self._free.release()

    def _turn_s(self) -> float:
        return min(_TURN_S, self._most_s) if self._waiting else self._most_s
