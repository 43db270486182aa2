"""How an answer leaves: its head with what follows it, and its end as the connection's."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tta_server.api.front.connection import Connection

_GO_ON = b"HTTP/1.1 100 "  # is no answer yet
_SMALL_BYTES = 2**16  # of a body that is copied behind its head


class Ending:
    """What a request's answer is written to: the connection's transport, whose end is the connection's.

    A head leaves with what follows it at once: by itself it would cost the server a call of the system, and wake a
    client who can do nothing with it.
    """

    def __init__(self, connection: "Connection", has_body: bool) -> None:
        """Write an answer with or without a body to a connection."""
        self._connection = connection
        self._transport = connection.transport
        self._head = None if has_body else b""  # None before it; empty once it has left
        self.is_closing = connection.transport.is_closing

    def write(self, data: bytes) -> None:
        """Write a head or a part of a body."""
        if self._head is None and not data.startswith(_GO_ON) and not self.is_closing():
            self._head = data
            self._connection.loop.call_soon(self._go_alone)
        elif self._head and len(data) <= _SMALL_BYTES:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._let_go()
            self._transport.write(data)

    def close(self) -> None:
        """End the connection."""
        self._let_go()
        self._connection.end()

    def _go_alone(self) -> None:
        """Have a head leave that nothing has followed at once, if anybody still hears it."""
        if not self.is_closing():
            self._let_go()

    def _let_go(self) -> None:
        """Write a head that is held."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)
