"""One connection of the server's protocol, in front of an application that answers when it is told to."""

import asyncio
from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.server import ServerState

from tta_server.api.front.connection import connection_class
from tta_server.settings_door import LimitsSettings

PATIENCE_S = 30
HEAD_S = 0.1
START = b"GET /v2 HTTP/1.1\r\nHost: x\r\n"


def heard(sent, then=b"", heads=3.0):
    """Return what comes back once the first request is answered, after so many times as a head may take, and what was
    refused.
    """
    refused = []

    async def ask():
        may_answer = asyncio.Event()

        async def app(_scope, _receive, send):
            await may_answer.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"{}"})

        limits = LimitsSettings(header_timeout_s=HEAD_S)
        protocol = connection_class(limits, refused.append)
        config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None)
        config.load()
        made = asyncio.get_running_loop().create_server(lambda: protocol(config, ServerState(), {}), "127.0.0.1", 0)
        async with await made as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(sent)
            await asyncio.sleep(heads * HEAD_S)
            may_answer.set()
            writer.write(then)
            try:
                return await asyncio.wait_for(reader.read(), PATIENCE_S)
            finally:
                writer.close()

    return asyncio.run(ask()), refused


def test_a_head_that_is_too_slow_costs_no_answer_to_what_came_before_it():
    answers, refused = heard(START + b"\r\n" + START)

    assert (answers.count(b"HTTP/1.1 200"), refused) == (1, ["slow_head"])


@pytest.mark.parametrize("heads", [2.5, 2.98, 3.0, 3.02, 3.04])  # also just before the server looks at the time
def test_nobody_is_too_slow_while_the_server_does_not_read(heads):
    last = b"Connection: close\r\n\r\n"
    answers, refused = heard((START + b"\r\n") * 3 + START, then=last, heads=heads)

    assert (answers.count(b"HTTP/1.1 200"), refused) == (4, [])


@pytest.mark.parametrize(("chunks", "kept"), [([b"a" * 9], bytes), ([b"a" * 9] * 3, bytearray)])
def test_one_part_of_a_body_is_not_copied_and_many_that_come_together_are_copied_once(chunks, kept):
    async def app(_scope, _receive, _send):
        raise AssertionError

    async def held():
        protocol = connection_class(LimitsSettings(), print)
        config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None)
        config.load()
        connection = protocol(config, ServerState(), {})
        connection.connection_made(Mock(asyncio.Transport, is_closing=lambda: False))
        connection.data_received(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.data_received(b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in chunks))
        connection._stop_timer()
        for task in connection.tasks:
            task.cancel()
        return connection.cycle.body

    body = asyncio.run(held())

    assert (type(body), bytes(body)) == (kept, b"".join(chunks))


def test_an_ipv4_address_that_comes_by_ipv6_is_that_address():
    async def client():
        protocol = connection_class(LimitsSettings(), print)
        config = uvicorn.Config(Mock(), http=protocol, ws="none", lifespan="off", log_config=None)
        config.load()
        connection = protocol(config, ServerState(), {})
        address = "::ffff:192.0.2.1", 4242, 0, 0
        about = {"socket": Mock(getpeername=lambda: address, getsockname=lambda: address)}
        connection.connection_made(Mock(asyncio.Transport, is_closing=lambda: False, get_extra_info=about.get))
        connection._stop_timer()
        return connection.client

    assert asyncio.run(client()) == ("192.0.2.1", 4242)
