"""Who gives way when there are too many connections."""

from collections.abc import Callable
from typing import Protocol

from tta_server.telemetry.closed_sets import TurnedAway


class Yielding(Protocol):
    """A connection, or what may become one."""

    def give_way(self) -> None:
        """Close at once."""
        ...


class Places:
    """The places of connections, of which there are so many: whoever keeps the server waiting keeps nobody else out.

    Attributes:
        idle: Those without a request at work, the oldest first.
        owing: Those whose client owes a body or reads no answer, the one that is silent longest first.
    """

    def __init__(self, most: int, refused: Callable[[TurnedAway], None]) -> None:
        """Have places for `most` connections; `refused` hears of each that is closed."""
        self._most = most
        self._refused = refused
        self.idle: dict[Yielding, None] = {}
        self.owing: dict[Yielding, None] = {}

    def make_room(self, count: int) -> bool:
        """Close a connection if `count` are too many: one that is idle, or else one whose client is waited for.

        Returns:
            Whether there is room.
        """
        if count <= self._most:
            return True
        for waiting in (self.idle, self.owing):
            if waiting:
                connection = next(iter(waiting))
                self.leave(connection)  # the next one that comes closes another
                self._refused("connections")
                connection.give_way()
                return True
        return False

    def owes(self, connection: Yielding) -> None:
        """Note that a client is waited for, and was heard just now."""
        self.owing.pop(connection, None)
        self.owing[connection] = None

    def leave(self, connection: Yielding) -> None:
        """Forget a connection."""
        self.idle.pop(connection, None)
        self.owing.pop(connection, None)
