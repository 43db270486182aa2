"""Messages on their way: gRPC says nothing of one before it is whole, so that their number is what bounds them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from tta_server.errors import TooSlow


class Party(NamedTuple):
    """Who calls.

    Attributes:
        who: The key's name, or the address.
        connection: The connection that he calls by.
    """

    who: str
    connection: str


class Turns:
    """So many messages are read at a time; those who wait take turns, and while they do a silent one gives way."""

    def __init__(self, at_once: int, most_s: float, waited_s: float, least_s: float) -> None:
        """Read nothing yet.

        Args:
            at_once: How many messages are read at a time.
            most_s: How long one may take.
            waited_s: How long while others wait, at most.
            least_s: And at least; in between, all who wait have theirs within a second.
        """
        self._free = at_once
        self._at_once = at_once
        self._most_s = most_s
        self._waited_s = waited_s
        self._least_s = least_s
        self._rota = Rota()
        self._begun: dict[asyncio.Timeout, float] = {}

    @asynccontextmanager
    async def turn(self, party: Party) -> AsyncIterator[None]:
        """Wait for a turn, and hold it until the block ends.

        Raises:
            TooSlow: If the block takes too long.
        """
        await self._acquire(party)
        try:
            async with asyncio.timeout(self._turn_s()) as reading:
                self._begun[reading] = asyncio.get_running_loop().time()
                try:
                    yield
                finally:
                    del self._begun[reading]
        except TimeoutError as error:
            raise TooSlow(
                f"the message took longer than {self._most_s:g} s (limits.body_timeout_s), or than {self._waited_s:g} "
                "s while others waited"
            ) from error
        finally:
            self._release()

    async def _acquire(self, party: Party) -> None:
        if self._free:
            self._free -= 1
            return
        called = asyncio.get_running_loop().create_future()
        self._rota.join(party, called)
        for reading, begun_s in self._begun.items():
            if not reading.expired():
                reading.reschedule(begun_s + self._turn_s())
        try:
            await called
        except asyncio.CancelledError:
            if called.cancelled():
                self._rota.leave(party, called)
            else:
                self._release()
            raise

    def _release(self) -> None:
        while self._rota.length:
            if not (called := self._rota.next()).done():  # he has not just hung up
                called.set_result(None)
                return
        self._free += 1

    def _turn_s(self) -> float:
        if not self._rota.length:
            return self._most_s
        return min(self._most_s, self._waited_s, max(self._least_s, self._at_once / self._rota.length))


class Rota:
    """Calls that wait: their owners take turns, each owner's connections do, and each connection's calls in order."""

    def __init__(self) -> None:
        """Have nobody wait."""
        self.length = 0
        self._owners: dict[str, dict[str, deque[asyncio.Future[None]]]] = {}

    def join(self, party: Party, call: asyncio.Future[None]) -> None:
        """Have a call wait."""
        self._owners.setdefault(party.who, {}).setdefault(party.connection, deque()).append(call)
        self.length += 1

    def leave(self, party: Party, call: asyncio.Future[None]) -> None:
        """Have a call wait no more, if it does."""
        connections = self._owners.get(party.who, {})
        with suppress(ValueError, KeyError):
            connections[party.connection].remove(call)
            self.length -= 1
            self._forget(party, connections)

    def next(self) -> asyncio.Future[None]:
        """Return the call whose turn it is; its owner, and of his its connection, go to the end."""
        who, connections = next(iter(self._owners.items()))
        connection, calls = next(iter(connections.items()))
        call = calls.popleft()
        self.length -= 1
        connections[connection] = connections.pop(connection)
        self._owners[who] = self._owners.pop(who)
        self._forget(Party(who, connection), connections)
        return call

    def _forget(self, party: Party, connections: dict[str, deque[asyncio.Future[None]]]) -> None:
        if not connections[party.connection]:
            del connections[party.connection]
        if not connections:
            del self._owners[party.who]


class Shares:
    """Calls that are held open: each party may have as many as there is room left for."""

    def __init__(self, most: int) -> None:
        """Have room for so many, of which one party alone gets half, and each of two a third."""
        self._room = most
        self._held: dict[str, int] = {}

    def take(self, party: str) -> bool:
        """Count one call more of a party, if it may have one."""
        held = self._held.get(party, 0)
        if held >= self._room:
            return False
        self._held[party] = held + 1
        self._room -= 1
        return True

    def give_back(self, party: str) -> None:
        """Count one call less of a party."""
        self._room += 1
        self._held[party] -= 1
        if not self._held[party]:
            del self._held[party]
