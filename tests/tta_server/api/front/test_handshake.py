"""A handshake that gives way is over, however early."""

import asyncio
import socket
import ssl
from types import SimpleNamespace

from tta_server.api.front.handshake import Handshake, Handshakes
from tta_server.api.front.places import Places


def test_one_that_gives_way_before_it_has_begun_leaves_nothing_behind():
    places, connections = Places(10, lambda _reason: None), set()

    async def left() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as address:
            address.setblocking(False)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            connection = SimpleNamespace(limits=SimpleNamespace(header_timeout_s=5.0), places=places)
            listening = Handshakes(address, context, lambda: connection, connections, print)
            listening.close()
            client = socket.create_connection(address.getsockname())
            accepted, _ = await asyncio.get_running_loop().sock_accept(address)
            handshake = Handshake(accepted, listening)
            assert (connections, [*places.idle]) == ({handshake}, [handshake])
            handshake.give_way()
            await asyncio.sleep(0.05)
            client.settimeout(30)
            with client:
                return client.recv(1)

    assert asyncio.run(left()) == b"", "the client hears that it is over"
    assert not connections
    assert not places.idle
