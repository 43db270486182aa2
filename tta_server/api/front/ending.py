"""How an answer leaves: its head with what follows it, and its end as the connection's."""

from typing import TYPE_CHECKING, Final

from tta_server.api.front.responses import SECURITY_HEADERS

if TYPE_CHECKING:
    from tta_server.api.front.connection import Connection

ALWAYS: Final = b"".join(b"%s: %s\r\n" % (name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS)
"""What stands in the head of every answer; uvicorn would look through each line of it every time."""

_GO_ON = b"HTTP/1.1 100 "  # is no answer yet
_SMALL_BYTES = 2**16  # of a body that is copied behind its head


class Ending:
    """What a request's answer is written to: the connection's transport, whose end is the connection's.

    Its head gets the lines of `ALWAYS`, and leaves with what follows it at once: by itself it would cost the server a
    call of the system, and wake a client who can do nothing with it.
    """

    def __init__(self, connection: "Connection", has_body: bool) -> None:
        """Write an answer with or without a body to a connection."""
        self._connection = connection
        self._transport = connection.transport
        self._has_body = has_body
        self._head: bytes | None = None  # before it comes; empty once it has left
        self.is_closing = connection.transport.is_closing

    def write(self, data: bytes) -> None:
        """Write a head or a part of a body."""
        if self._head is None and not data.startswith(_GO_ON):
            behind_status = data.index(b"\r\n") + 2
            data = data[:behind_status] + ALWAYS + data[behind_status:]
            if self._has_body and not self.is_closing():
                self._head = data
                self._connection.loop.call_soon(self._go_alone)
            else:
                self._head = b""
                self._transport.write(data)
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
