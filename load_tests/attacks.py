"""What hostile and broken clients do to a server; a test and a benchmark take it from here."""

import itertools
import json
import socket
import struct
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, Literal, NamedTuple

import httpx

from load_tests.payloads import GZIP, ZLIB, bomb, form, grey_png, jpeg_of_scans, png_of, png_with, tensor_of
from load_tests.wire import connected, head, heard, pour
from tta_server.models import glyphs
from tta_server.storage.audit import Entry

Bodies = Callable[[], Iterable[bytes]]
"""Makes what is sent, when it is."""

Door = Literal["http", "grpc"]

_MIB = 2**20
_INFER, _PREDICT = "/v2/models/glyphs/infer", "/predict"
_JSON = {"Content-Type": "application/json"}
_FORM = {"Content-Type": "multipart/form-data; boundary=x"}
_MOST_NAMES, _OPENERS = 12_000, 4
_START = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n"
_DRIP_S = 0.2
_HALF = b'{"labels": [{"id": "a", "label": "\\ud800"}]}'
_CHUNK = b"10000\r\n" + bytes(2**16) + b"\r\n"


class Heard(NamedTuple):
    """What one hostile connection got.

    Attributes:
        status: Of the first answer, of gRPC its code's name; 0 if the server hung up without one.
        took_s: Until the connection was over.
        said: The error.
    """

    status: int | str
    took_s: float
    said: str


@dataclass(frozen=True)
class Attack:
    """What is done to a server.

    Attributes:
        name: For people.
        run: Does it to the server at an address, and returns what each connection got.
        right: Statuses that a connection may get; the first is got by one at least.
        said: What stands in the errors of the first of them that is a refusal.
        within_s: When the last connection is over, where nobody else wants the CPUs.
        door: Which port it wants the address of.
    """

    name: str
    run: Callable[[str], list[Heard]]
    right: tuple[int | str, ...]
    said: str = ""
    within_s: float = 15.0
    door: Door = "http"

    def wrong(self, got: Sequence[Heard]) -> list[Heard]:
        """Return what was no right answer; everything if nothing was of the status that must be there."""
        if not any(each.status == self.right[0] for each in got):
            return list(got)
        refused = next((status for status in self.right if status not in (0, 200)), None)
        return [
            each
            for each in got
            if each.status not in self.right or (each.status == refused and self.said not in each.said)
        ]


def prepare(folder: Path) -> None:
    """Write a large audit log into the empty folder of a store, before its server starts."""
    (folder / "audit").mkdir(parents=True)
    line = Entry("long-gone", "commit", 1, 2, reason="x" * 80).as_line()
    for number in range(1, 17):
        (folder / f"audit/{number:08d}.jsonl").write_bytes(line * 8000)


def _ended(connection: socket.socket, started_s: float) -> Heard:
    status, body = heard(connection)
    return Heard(status, time.perf_counter() - started_s, str(body.get("error", "")))


def _told(url: str, parts: Iterable[bytes], deaf: bool = False) -> Heard:
    """Send parts on a connection of their own, and hear what comes."""
    with connected(url) as connection:
        started_s = time.perf_counter()
        pour(connection, parts, deaf)
        return _ended(connection, started_s)


def _sends(parts: Bodies, connections: int, deaf: int = 0) -> Callable[[str], list[Heard]]:
    """Send the same on several connections at the same time; the first `deaf` of them do not listen meanwhile."""

    def run(url: str) -> list[Heard]:
        with ThreadPoolExecutor(connections) as pool:
            return list(pool.map(lambda number: _told(url, parts(), number < deaf), range(connections)))

    return run


def _posts(
    path: str, bodies: Bodies, headers: Mapping[str, str], method: str = "POST", times: int = 1
) -> Callable[[str], list[Heard]]:
    """Send each body in requests of their own, so many times each, all at the same time."""

    def run(url: str) -> list[Heard]:
        requests = [(head(path, len(body), method, headers), body) for body in bodies()] * times
        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(lambda request: _told(url, request), requests))

    return run


def _good() -> bytes:
    image = glyphs.images("test")[0][:1]
    tensor = {"name": "input", "datatype": "UINT8", "shape": [1, 3, 32, 32], "data": image.reshape(-1).tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def _outputs(count: int) -> bytes:
    return _good()[:-1] + b',"outputs":[' + b'{"name":"label"},' * count + b'{"name":"label"}]}'


def _long_lists() -> Iterator[bytes]:
    yield tensor_of(b"[]," * (10 * _MIB) + b"[]")
    yield tensor_of(b"[[0]]," * (5 * _MIB) + b"[[0]]")
    yield tensor_of(b"0," * (15 * _MIB) + b"0")


def _no_numbers() -> Iterator[bytes]:
    yield tensor_of(b"[" * (30 * _MIB))
    yield tensor_of(b'"a",' * (7 * _MIB) + b'"a"')


def _many_labels() -> Iterator[bytes]:
    yield b'{"labels":[' + b"{}," * (9 * _MIB) + b"{}]}"
    yield b'{"labels":[' + b"[]," * 600_000 + b"[]]}"


def _many_semicolons() -> Iterator[bytes]:
    part = b'--x\r\nContent-Disposition: form-data; filename="x' + b";" * 2000 + b"\r\n\r\n1\r\n"
    yield part * 64 + b"--x--\r\n"


def _bombs() -> Iterator[bytes]:
    """Yield a zip archive and three PNG files that are small until they are opened."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        packed.writestr("a.png", bytes(64 * _MIB))
    yield archive.getvalue()
    yield png_of(bomb(1, ZLIB))
    yield png_with(b"iCCP", b"x\0\0" + bomb(1, ZLIB))
    yield png_with(b"zTXt", b"x\0\0" + bomb(1, ZLIB))


def _state() -> bytes:
    header = b"{" + b" " * (30 * _MIB) + b"}"
    return struct.pack("<Q", len(header)) + header


def _dripping(start: bytes) -> Iterator[bytes]:
    yield start
    while True:
        time.sleep(_DRIP_S)
        yield b"x"


def _names(url: str) -> list[Heard]:
    """Open streams until one is refused, as another client each time, if the server believes that.

    On several connections: names that rest for a minute give way, so where that is too short for all nobody is refused.
    """
    body, found, numbers = _good(), list[Heard](), iter(range(_MOST_NAMES))

    def open_some() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            for number in numbers:
                who = {
                    "X-Stream-Id": f"flood-{number}",
                    "X-Forwarded-For": f"10.1.{number % 250}.1",
                    "X-Actor": f"{number}",
                }
                started_s = time.perf_counter()
                answer = client.post(_INFER, content=body, headers=who)
                found.append(Heard(answer.status_code, time.perf_counter() - started_s, answer.json().get("error", "")))
                if answer.status_code != 200 or any(each.status != 200 for each in found[-_OPENERS:]):
                    return

    with ThreadPoolExecutor(_OPENERS) as pool:
        for opened in [pool.submit(open_some) for _ in range(_OPENERS)]:
            opened.result()
    return found


def _half_shut(url: str) -> list[Heard]:
    """End the own half of connections amid a head or a body."""
    with ExitStack() as stack:
        started_s = time.perf_counter()
        starts = (_START, head(_PREDICT, _MIB) + b"x", b"") * 16
        held = [stack.enter_context(connected(url, start)) for start in starts]
        for connection in held:
            connection.shutdown(socket.SHUT_WR)
        return [_ended(connection, started_s) for connection in held]


def silent(url: str) -> list[Heard]:
    """Open connections and say nothing."""
    with ExitStack() as stack:
        started_s = time.perf_counter()
        held = [stack.enter_context(connected(url)) for _ in range(2000)]
        return [_ended(connection, started_s) for connection in held]


def _one_byte_short() -> Iterator[bytes]:
    yield head(_PREDICT, 32 * _MIB)
    yield from itertools.repeat(bytes(_MIB), 31)
    yield bytes(_MIB - 1)


def _upgrading() -> Iterator[bytes]:
    hidden = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500
    yield head(_PREDICT, len(hidden), headers={"Connection": "Upgrade", "Upgrade": "h2c"})
    yield hidden


def _pipelined() -> Iterator[bytes]:
    ask = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"
    yield (ask + b"\r\n") * 500 + ask + b"Connection: close\r\n\r\n"


def _endless_header() -> Iterator[bytes]:
    yield _START + b"A: "
    yield from itertools.repeat(b"a" * _MIB, 50)


def _endless_body() -> Iterator[bytes]:
    yield b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield from itertools.repeat(_CHUNK * 16, 1024)


def _crumbs() -> Iterator[bytes]:
    yield b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield b"1\r\na\r\n" * 350_000 + b"0\r\n\r\n"


_EMPTY_CHUNK = struct.pack(">I4sI", 0, b"aaAa", 0)

ATTACKS: Final = (
    # What makes work, or memory, of a body.
    Attack(
        "an output, 3,000 times", _posts(_INFER, lambda: [_outputs(3000)], _JSON, times=8), (400,), "more than once"
    ),
    Attack(
        "an output, 60,000 times", _posts(_INFER, lambda: [_outputs(60_000)], _JSON, times=8), (400,), "65536 bytes"
    ),
    Attack("tensors of 30 MiB of [], or [[0]], or 0,", _posts(_INFER, _long_lists, _JSON), (400,), "fit shape"),
    Attack("tensors of 30 MiB of [ or texts", _posts(_INFER, _no_numbers, _JSON), (400,), "'data'"),
    Attack("30 MiB of [", _posts(_INFER, lambda: [b"[" * (30 * _MIB)], _JSON, times=4), (400,), "not JSON"),
    Attack("labels of 27 and of 1.8 MiB", _posts("/v1/labels", _many_labels, _JSON), (413,)),
    Attack("a state with a header of 30 MiB", _posts("/v1/streams/door/state", lambda: [_state()], {}, "PUT"), (400,)),
    Attack(
        "gzip out of which 1 GiB comes",
        _posts(_PREDICT, lambda: [bomb(1, GZIP)], {"Content-Encoding": "gzip"}, times=8),
        (413,),
        "may have at most",
    ),
    Attack(
        "forms of 100,000 parts", _posts(_PREDICT, lambda: [form([b"1"] * 100_000)], _FORM, times=4), (400,), "parts"
    ),
    Attack(
        "heads of 31,000 semicolons",
        _posts(_PREDICT, lambda: [b"--x"], {"Content-Type": _FORM["Content-Type"][:-1] + '"x' + ";" * 31_000}, times=8),
        (400,),
        "no boundary",
    ),
    Attack("64 file names of 2,000 semicolons", _posts(_PREDICT, _many_semicolons, _FORM, times=8), (415,), "image"),
    Attack("half a character", _posts("/v1/labels", lambda: [_HALF], _JSON, times=64), (400,), "no JSON"),
    Attack(
        "12 readers of a large audit log", _posts("/v1/streams/nobody/audit", lambda: [b""], {}, "GET", 12), (429, 404)
    ),
    # What makes it of a picture.
    Attack("JPEGs of 300 scans", _posts(_PREDICT, lambda: [jpeg_of_scans(300, 4000)], {}, times=8), (413,), "scans"),
    Attack(
        "64 PNGs of 4000 x 4000, 4 times",
        _posts(_PREDICT, lambda: [form([grey_png(4000)] * 64)], _FORM, times=4),
        (413,),
        "max_decoding_pixels",
    ),
    Attack(
        "4 PNGs of 4000 x 4000, 8 times",
        _posts(_PREDICT, lambda: [form([grey_png(4000)] * 4)], _FORM, times=8),
        (429, 200, 413),
        "max_decoding_pixels",
    ),
    Attack("zip and PNG out of which 1 GiB comes", _posts(_PREDICT, _bombs, {}, times=2), (415, 400, 200)),
    Attack(
        "PNGs in 60,000 pieces",
        _posts(_PREDICT, lambda: [png_with(b"tEXt", b"")[:33] + _EMPTY_CHUNK * 60_000], {}, times=8),
        (400,),
        "pieces",
    ),
    # What holds a connection, or makes two requests of one.
    Attack("a body behind a wish for another protocol", _sends(_upgrading, 32), (415,), "image"),
    Attack("heads of 50 MiB", _sends(_endless_header, 4, deaf=2), (431, 0), "max_header_bytes"),
    Attack("chunked bodies of 1 GiB", _sends(_endless_body, 4, deaf=2), (413, 0), "may have at most"),
    Attack("bodies in 350,000 chunks of a byte", _sends(_crumbs, 8), (400,), "parts"),
    Attack("60 bodies held one byte short", _sends(_one_byte_short, 60), (429, 408), "max_receiving_bytes", 45),
    Attack("heads that drip", _sends(lambda: _dripping(_START + b"A: "), 32), (408,), "header_timeout_s"),
    Attack("bodies that drip", _sends(lambda: _dripping(head(_PREDICT, _MIB)), 32), (408,), "body_timeout_s", 45),
    Attack("half-open connections", _half_shut, (0, 400), within_s=45),
    Attack("2,000 connections that say nothing", silent, (408, 0, 503), "header_timeout_s", 20),
    Attack("500 requests at once, 8 times", _sends(_pipelined, 8, deaf=8), (200,), within_s=30),
    # What takes room for good; after it no client of this address opens a stream, unless names rest that long already.
    Attack("names without end", _names, (200, 429), "streams.max_streams", 600),
)
"""What was seen to stop this server or others, and what stops some; the limits are the defaults."""
