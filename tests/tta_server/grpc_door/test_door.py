"""What a call may cost: nothing before its key, little while it is read, and nothing once it has ended."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import orjson
import pytest

from tta_server.errors import Unauthorized
from tta_server.grpc_door.door import Door
from tta_server.grpc_door.messages import HEALTH, INFERENCE, message, methods
from tta_server.settings_door import LimitsSettings, ServerSettings

CALLS, PATIENCE_S = 20, 5
MESSAGE = message("inference.ModelInferRequest")(
    model_name="glyphs",
    inputs=[{"name": "input", "datatype": "UINT8", "shape": [1]}],
    raw_input_contents=[bytes(2**16)],
).SerializeToString()
PROBLEM = orjson.dumps({"error": "no", "code": "not_found"})
ANSWER = orjson.dumps({"model_name": "glyphs", "model_version": "1", "parameters": {}, "outputs": []})


def answering(status: int, body: bytes) -> Callable[..., Awaitable[None]]:
    """Return an application that reads a request and answers so."""

    async def app(_scope, receive, send) -> None:
        await receive()
        size = (b"inference-header-content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": status, "headers": [size]})
        await send({"type": "http.response.body", "body": body})

    return app


def nobody(_headers: object) -> None:
    raise Unauthorized("no key")


def anybody(_headers: object) -> str:
    return ""


async def codes(
    app, admit, name: str, data: bytes, calls: int = 1, service: str = INFERENCE, left: list[int] | None = None
) -> list[tuple]:
    """Return code, details and error code of calls to a door of its own; `left` hears how many of them stay."""
    found, told = [], []
    door = Door(app, ServerSettings(), LimitsSettings(), admit, told.append)
    port = await door.open()
    kind = methods(service)[name][1]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(f"/{service}/{name}", lambda sent: sent, kind.FromString)
        for _ in range(calls):
            call = ask(data, timeout=60)
            code = await call.code()
            more = dict(await call.trailing_metadata())
            found.append((code.name, await call.details(), more.get("x-error-code")))
        if left is not None:
            left.append(contexts())  # now: the end of the loop would end much that stays while it runs
    await door.close()
    return [*found, *told]


@contextmanager
def uncollected() -> Iterator[None]:
    """Have nothing freed but what nobody refers to."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("app", "admit", "data", "code"),
    [
        (answering(200, ANSWER), anybody, MESSAGE, "OK"),
        (answering(404, PROBLEM), anybody, MESSAGE, "NOT_FOUND"),
        (answering(200, ANSWER), nobody, MESSAGE, "UNAUTHENTICATED"),
        (answering(200, ANSWER), anybody, MESSAGE + b"\x7b", "INVALID_ARGUMENT"),
    ],
    ids=["answered", "refused by the application", "without a key", "no message"],
)
def test_nothing_of_a_call_stays_once_it_has_ended(app, admit, data, code):
    left: list[int] = []
    with uncollected():
        before = contexts()
        found = asyncio.run(codes(app, admit, "ModelInfer", data, CALLS, left=left))

    assert [each[0] for each in found[:CALLS]] == [code] * CALLS
    assert left[0] - before <= 2


def contexts() -> int:
    """Return how many calls of a server there are."""
    return sum(type(each).__name__ == "_ServicerContext" for each in gc.get_objects())


def test_a_key_is_asked_for_before_a_message_is_read():
    async def app(*_: object) -> None:
        raise AssertionError("the application is not asked")

    found = asyncio.run(codes(app, nobody, "ModelInfer", b"no message at all"))

    assert found == [("UNAUTHENTICATED", "no key", "unauthorized"), "unauthorized"]


@pytest.mark.parametrize("name", [*methods(INFERENCE), *methods(HEALTH)])
def test_large_messages_are_read_from_nobody_without_a_key_but_one_at_a_time(name):
    service = HEALTH if name in methods(HEALTH) else INFERENCE
    app = answering(200, b'{"live": true, "ready": true}')

    found = asyncio.run(codes(app, nobody, name, bytes(2**20), service=service))

    expected = {"ServerLive": "OK", "ServerReady": "OK", "Check": "INVALID_ARGUMENT"}
    assert found[0][0] == expected.get(name, "UNAUTHENTICATED")


def test_probes_need_no_key():
    app = answering(200, b'{"live": true, "ready": true}')

    assert asyncio.run(codes(app, nobody, "ServerReady", b""))[0][0] == "OK"
    assert asyncio.run(codes(app, nobody, "Check", b"", service=HEALTH))[0][0] == "OK"


def test_what_the_door_refuses_has_a_code_as_what_the_application_refuses():
    found = asyncio.run(codes(answering(200, ANSWER), anybody, "ModelInfer", b"\x7b"))

    assert found[0][0::2] == ("INVALID_ARGUMENT", "bad_request")
    assert found[1] == "body"


HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # preface and empty settings


async def ended(server: ServerSettings, limits: LimitsSettings, sent: bytes, connections: int) -> list[bool]:
    """Open so many connections that say this and no more; return of each whether the door has closed it in time."""
    door = Door(answering(200, ANSWER), server, limits, anybody, print)
    port = await door.open()
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
    for _, writer in streams:
        writer.write(sent)

    async def closed(reader: asyncio.StreamReader) -> bool:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await reader.read()
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    found = await asyncio.gather(*(closed(reader) for reader, _ in streams))
    for _, writer in streams:
        writer.close()
    await door.close()
    return found


@pytest.mark.parametrize("sent", [b"", HELLO[:24], HELLO], ids=["nothing", "half of a hello", "a hello"])
def test_a_connection_that_calls_nothing_is_closed_in_time(sent):
    server, limits = ServerSettings(keep_alive_s=1), LimitsSettings(header_timeout_s=1)

    assert asyncio.run(ended(server, limits, sent, 8)) == [True] * 8


def test_there_are_no_more_connections_than_may_be():
    found = asyncio.run(ended(ServerSettings(), LimitsSettings(max_connections=3), HELLO, 10))

    assert found.count(False) == 3


PLAIN = """
import asyncio, socket, sys, trustme
from pathlib import Path
from tta_server.grpc_door.door import Door
from tta_server.settings_door import LimitsSettings, ServerSettings

made = trustme.CA().issue_cert("localhost")
made.cert_chain_pems[0].write_to_path("certificate")
made.private_key_pem.write_to_path("key")

def ask(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
        while connection.recv(100):
            pass

async def asked():
    server = ServerSettings(tls_certificate=Path("certificate"), tls_key=Path("key"))
    door = Door(None, server, LimitsSettings(), print, print)
    port = await door.open()
    await asyncio.to_thread(ask, port)
    await door.close()

asyncio.run(asked())
"""


def test_who_speaks_no_tls_leaves_nothing_in_the_log(tmp_path):
    path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"} | {"PYTHONPATH": path}

    done = subprocess.run(
        [sys.executable, "-c", PLAIN], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
