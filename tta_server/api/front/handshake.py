"""Connections of TLS before they are any: their handshakes count as connections from the moment they are accepted.

What listens for asyncio tells of a connection only once its handshake is done; so this accepts by itself.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from tta_server.api.front.connection import Connection

_FAREWELL_S = 1.0  # a client that is idle does not read that TLS is over: a stop would wait for it
_AGAIN_S = 1.0  # after which the system may have a file for a connection again, as asyncio has it


class Handshakes:
    """Listen at an address, and turn what is accepted into connections."""

    def __init__(
        self,
        address: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], Connection],
        connections: set[Any],
        failed: Callable[[str], None],
    ) -> None:
        """Begin; the address must listen.

        Args:
            address: Where.
            context: Certificates.
            make: Makes a connection.
            connections: All that there are.
            failed: Hears why a handshake failed, if TLS says so.
        """
        self._loop = asyncio.get_running_loop()
        self._address = address
        self.context, self.make, self.connections, self.failed = context, make, connections, failed
        self._accepting = self._loop.create_task(self._accept())

    async def _accept(self) -> None:
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(self._address)
            except ConnectionError:  # who came has gone
                continue
            except OSError:  # the system has no more files
                await asyncio.sleep(_AGAIN_S)
                continue
            Handshake(accepted, self)
            await asyncio.sleep(0)  # so that it begins before the next one, which may have it give way

    def close(self) -> None:
        """Accept no more."""
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        """Wait for nothing."""


class Handshake(asyncio.Protocol):
    """One handshake: for others an idle connection, until a connection takes its place."""

    def __init__(self, accepted: socket.socket, among: Handshakes) -> None:
        """Begin; if there are too many connections, one that is idle gives way."""
        self._among = among
        self._connection = among.make()
        among.connections.add(self)
        self._connection.places.make_room(len(among.connections))
        self._connection.places.idle[self] = None
        self._accepted: socket.socket | None = accepted  # until it is another's to close
        self._shaking = asyncio.get_running_loop().create_task(self._shake(accepted))
        self._shaking.add_done_callback(self._over)

    async def _shake(self, accepted: socket.socket) -> None:
        self._accepted = None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                accepted,
                ssl=self._among.context,
                ssl_handshake_timeout=self._connection.limits.header_timeout_s,
                ssl_shutdown_timeout=_FAREWELL_S,
            )
        except ssl.SSLError as error:
            self._among.failed(error.reason or "no TLS")
        except OSError:
            pass  # who began it has gone, or its time is over

    def _over(self, _: asyncio.Task[None]) -> None:
        """See to what is left, also of one that gave way before it began."""
        self._leave()
        if self._accepted:
            self._accepted.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have the connection go on."""
        self._leave()
        transport.set_protocol(self._connection)
        self._connection.connection_made(transport)  # type: ignore[arg-type]

    def give_way(self) -> None:
        """End."""
        self._shaking.cancel()

    shutdown = give_way

    def _leave(self) -> None:
        self._connection.places.leave(self)
        self._among.connections.discard(self)
