"""Keep requests under way at one server, with a client that costs next to nothing, and read what the server takes."""

import os
import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_TIMEOUT_S = 30.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TICKS = os.sysconf("SC_CLK_TCK")


class Reading(NamedTuple):
    """What was seen of a server in one turn.

    Attributes:
        rate: Requests answered a second.
        latencies_s: Of each request.
        cpu_s: That all its processes took.
        memory_bytes: That they have, what they share counted once.
    """

    rate: float
    latencies_s: list[float]
    cpu_s: float
    memory_bytes: int


@dataclass(eq=False)
class _Client:
    connection: socket.socket
    sent_s: float = 0.0
    got: bytearray = field(default_factory=bytearray)

    def send(self, request: bytes) -> None:
        self.got.clear()
        self.sent_s = time.perf_counter()
        self.connection.sendall(request)

    def is_answered(self) -> bool:
        """Take what has come; returns whether the answer is complete, and fails if it is no good one."""
        part = self.connection.recv(65536)
        self.got += part
        end = self.got.find(b"\r\n\r\n")
        if not part or (end >= 0 and not self.got.startswith(b"HTTP/1.1 200")):
            raise RuntimeError(f"the server answered {bytes(self.got[:300])!r}")
        length = _LENGTH.search(self.got, 0, end) if end >= 0 else None
        return length is not None and len(self.got) >= end + 4 + int(length[1])


def saturate(port: int, requests: Sequence[bytes], clients: int, seconds: float, leader: int) -> Reading:
    """Have so many clients send whole requests in turn, each the next one as soon as it is answered.

    Args:
        port: Where the server listens.
        requests: What it is sent.
        clients: How many.
        seconds: How long requests are begun; each client sends one at least.
        leader: The process that leads the server's group.

    Raises:
        RuntimeError: If an answer is not 200, or does not come.
    """
    turn, latencies_s = 0, list[float]()
    cpu_s = sum(_cpu_s(pid) for pid in _group(leader))
    started_s = time.perf_counter()
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        for _ in range(clients):
            client = _Client(stack.enter_context(socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)))
            client.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(client.connection, selectors.EVENT_READ, client)
            client.send(requests[turn % len(requests)])
            turn += 1
        while selector.get_map():
            ready = selector.select(_TIMEOUT_S)
            if not ready:
                raise RuntimeError(f"no answer came for {_TIMEOUT_S:g} s")
            for key, _ in ready:
                client = key.data
                if not client.is_answered():
                    continue
                now_s = time.perf_counter()
                latencies_s.append(now_s - client.sent_s)
                if now_s - started_s < seconds:
                    client.send(requests[turn % len(requests)])
                    turn += 1
                else:
                    selector.unregister(client.connection)
    took_s = time.perf_counter() - started_s
    members = list(_group(leader))
    spent_s = sum(_cpu_s(pid) for pid in members) - cpu_s
    return Reading(len(latencies_s) / took_s, latencies_s, spent_s, sum(_memory_bytes(pid) for pid in members))


def _group(leader: int) -> Iterator[int]:
    """Yield the processes of a group."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(_stat(int(folder.name))[2]) == leader:
            yield int(folder.name)


def _cpu_s(pid: int) -> float:
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) / _TICKS


def _stat(pid: int) -> list[str]:
    """Return what /proc says of a process after its name: state, parent, group; zeros if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 20


def _memory_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0
