"""What a way to several replicas costs: `python -m tests.replicas.latency` prints a table for BENCHMARKS.md.

One server alone, three behind HAProxy, and three on Ray Serve (with the extra `ray`) run at once; one caller asks each
in turn, in another order every round.
"""

import itertools
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch

from load_tests.clock import quantile
from load_tests.machine import describe, load_average
from tests.replicas.balancer import balancing
from tests.replicas.load import png
from tests.replicas.ray_cluster import free_port, on_ray
from tests.server import running
from tta_server.models import glyphs

ROUNDS, ASKED = 20, 50
REPLICAS, STREAMS = 3, 60
SETTINGS: dict[str, Any] = {"engine": {"threads": 1}}


@dataclass
class Way:
    """One way to a server: where, the processes that it takes, and how long answers took."""

    url: str
    processes: set[int]
    took_ms: list[float] = field(default_factory=list)


def main() -> None:
    """Measure and print."""
    before = load_average()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ways = _started(Path(folder), stack)
        _ask(ways)
        rows = [_row(name, way) for name, way in ways.items()]
    head = ["", "p10 ms", "p50 ms", "p99 ms", "processes", "memory MiB"]
    lines = [head, ["---"] * len(head), *rows]
    print(*("| " + " | ".join(line) + " |" for line in lines), sep="\n")
    print(describe(torch.device("cpu")), f"load average: {before:.1f} before, {load_average():.1f} after")


def _started(folder: Path, stack: ExitStack) -> dict[str, Way]:
    ways = {}
    for name, start in {"one server": _plain, "three behind HAProxy": _balanced, "three on Ray Serve": _on_ray}.items():
        known = set(_children(os.getpid()))
        (folder / name).mkdir()
        url = start(folder / name, stack)
        ways[name] = Way(url, set(_children(os.getpid())) - known)
    return ways


def _plain(folder: Path, stack: ExitStack) -> str:
    return stack.enter_context(running(folder, SETTINGS | {"domains": {}}, forked=False)).url


def _balanced(folder: Path, stack: ExitStack) -> str:
    servers = {}
    for number in range(REPLICAS):
        (folder / str(number)).mkdir()
        shared = {"url": str(folder / "store"), "shared": True, "replica": f"tta-{number}"}
        config = SETTINGS | {"domains": {}, "storage": shared}
        url = stack.enter_context(running(folder / str(number), config, forked=False)).url
        servers[f"tta-{number}"] = url.removeprefix("http://")
    port = free_port()
    stack.enter_context(balancing(port, servers, folder))
    return f"http://127.0.0.1:{port}"


def _on_ray(folder: Path, stack: ExitStack) -> str:
    return stack.enter_context(on_ray(folder, REPLICAS, SETTINGS))


def _ask(ways: dict[str, Way]) -> None:
    files = itertools.cycle([png(image) for image in glyphs.images("test")[0]])
    order = list(ways.values())
    clients = {way.url: httpx.Client(base_url=way.url, timeout=60) for way in order}
    for number in range(-2, ROUNDS):
        for way in order if number % 2 else reversed(order):
            for asked in range(ASKED):
                headers = {"X-Stream-Id": f"gate-{asked % STREAMS}"}
                begun_s = time.perf_counter()
                answer = clients[way.url].post("/predict", files={"image": next(files)}, headers=headers)
                if number >= 0:  # the first rounds open streams
                    way.took_ms.append(1e3 * (time.perf_counter() - begun_s))
                answer.raise_for_status()


def _row(name: str, way: Way) -> list[str]:
    times = [f"{quantile(way.took_ms, share):.1f}" for share in (0.1, 0.5, 0.99)]
    memory = sum(map(_memory_bytes, way.processes)) / 2**20
    return [name, *times, str(len(way.processes)), f"{memory:.0f}"]


def _children(parent: int) -> Iterator[int]:
    """Yield every process below one."""
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from _children(child)


def _memory_bytes(process: int) -> int:
    """Return the memory that a process has, what it shares with others counted once."""
    found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


if __name__ == "__main__":
    main()
