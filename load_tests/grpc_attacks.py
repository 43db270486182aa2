"""What hostile and broken clients do to the port of gRPC."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Final

import grpc

from load_tests import http2
from load_tests.attacks import Attack, Heard, silent
from load_tests.wire import heard
from tta_server.grpc_door.messages import HEALTH, INFERENCE, message

_MIB = 2**20
_PATIENCE_S = 60
_CHECK, _INFER = f"/{HEALTH}/Check", f"/{INFERENCE}/ModelInfer"
_BEGIN_S = 0.5  # what calls take to begin
_ATTACKER_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each


def _calls(data: Callable[[], bytes], times: int) -> Callable[[str], list[Heard]]:
    """Send a message in calls of their own, each on its own connection, so many at the same time."""

    def run(address: str) -> list[Heard]:
        sent = data()
        with ThreadPoolExecutor(times) as pool:
            return list(pool.map(lambda _: _told(address, iter([sent])), range(times)))

    return run


def _told(address: str, messages: Iterator[bytes], path: str = _INFER) -> Heard:
    started_s = time.perf_counter()
    with grpc.insecure_channel(address.removeprefix("http://"), _ATTACKER_OPTIONS) as channel:
        try:
            channel.stream_unary(path)(messages, timeout=_PATIENCE_S)
            status, said = grpc.StatusCode.OK, ""
        except grpc.RpcError as error:
            status, said = error.code(), error.details() or ""
    return Heard(status.name, time.perf_counter() - started_s, said)


def _request(values: bytes) -> bytes:
    asked = message("inference.ModelInferRequest")(
        model_name="glyphs",
        inputs=[{"name": "input", "datatype": "UINT8", "shape": [1, 3, 32, 32]}],
        raw_input_contents=[values],
    )
    return bytes(asked.SerializeToString())


def _beside(sent: bytes, connections: int, *paths: str) -> Callable[[str], list[Heard]]:
    """Send this on so many connections that stay open; return what good calls beside them get."""
    image = bytes(range(256)) * 12

    def run(address: str) -> list[Heard]:
        with ExitStack() as stack:
            for _ in range(connections):
                stack.enter_context(http2.connected(address, sent))
            time.sleep(_BEGIN_S)
            return [_told(address, iter([_request(image) if path == _INFER else b""]), path) for path in paths]

    return run


def _hello(address: str) -> list[Heard]:
    """Open connections, say that they speak HTTP/2, and no more."""
    with ExitStack() as stack:
        started_s = time.perf_counter()
        held = []
        for _ in range(2000):
            with suppress(ConnectionError):  # of one too many
                held.append(stack.enter_context(http2.connected(address, http2.settings())))
        return [Heard(heard(each)[0], time.perf_counter() - started_s, "") for each in held]


def _many_fields() -> bytes:
    return b"\x2a\x00" * (16 * _MIB)  # inputs, each of them empty


def _many_numbers() -> bytes:
    shape = message("inference.ModelInferRequest.InferInputTensor")(name="input", datatype="UINT8")
    shape.shape.extend(itertools.repeat(1, 30 * _MIB))
    return bytes(message("inference.ModelInferRequest")(model_name="glyphs", inputs=[shape]).SerializeToString())


def _messages_that_never_come(address: str) -> list[Heard]:
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(_PATIENCE_S)
        yield from ()

    with ThreadPoolExecutor(64) as pool, ExitStack() as stack:
        stack.callback(over.set)
        return list(pool.map(lambda _: _told(address, nothing()), range(64)))


GRPC_ATTACKS: Final = (
    Attack(
        "16 calls of 32 MiB",
        _calls(lambda: _request(bytes(32 * _MIB)), 16),
        ("INVALID_ARGUMENT",),
        "at most",
        door="grpc",
    ),
    Attack("calls of 16,000,000 fields", _calls(_many_fields, 8), ("INVALID_ARGUMENT",), "fields", door="grpc"),
    Attack("calls of 30,000,000 numbers", _calls(_many_numbers, 8), ("INVALID_ARGUMENT",), "numbers", door="grpc"),
    Attack(
        "64 calls whose message never comes",
        _messages_that_never_come,
        ("DEADLINE_EXCEEDED",),
        "body_timeout_s",
        within_s=45,
        door="grpc",
    ),
    Attack(
        "1,000 probes whose message never comes",
        _beside(http2.settings() + http2.begun(1000, _CHECK, {}), 1, _CHECK, _INFER),
        ("OK",),
        door="grpc",
    ),
    Attack(
        "1,000 probes whose answer nobody takes",
        _beside(http2.settings(window=0) + http2.begun(100, _CHECK, {}, http2.NO_MESSAGE), 10, _CHECK, _INFER),
        ("OK",),
        door="grpc",
    ),
    Attack(
        "1,000 calls held on one connection",
        _beside(http2.settings() + http2.begun(1000, _INFER, {}), 1, _CHECK, _INFER),
        ("OK",),
        door="grpc",
    ),
    Attack("2,000 connections of gRPC that say nothing", silent, (0,), within_s=20, door="grpc"),
    Attack("2,000 connections of gRPC that say hello", _hello, (0,), within_s=20, door="grpc"),
)
"""What was seen to stop this server or others by gRPC."""
