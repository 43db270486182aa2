"""Ten times more than the server can answer, for a minute: what it keeps and what it gives up.

    python -m load_tests.overload --seconds 60 --out overload.md

The load is an open loop: requests are sent when they are due, however many still wait for an answer. Requests hold 16
images, so that the client, which shares this machine, has time for ten times as many as the server.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import torch

from load_tests.arrivals import steady
from load_tests.client import Sent, bodies, closed_loop, open_loop
from load_tests.clock import quantile
from load_tests.local_server import local_server, windows
from load_tests.machine import load_average
from load_tests.report import publish, ran_on
from load_tests.siege import memory

_STREAMS = ("overload-1", "overload-2", "overload-3", "overload-4")
_FROZEN = "overload-off"
_CLIENTS = 8
_IMAGES = 16
_EVERY_S = 0.25
_MIB = 2**20
_SATURATED = "Saturated, answering only: {:.0f} requests/s of {} images; after the overload {:.0f}."
_SHARES = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))


@dataclass
class Watched:
    """What was seen of a server under load, a reading every quarter of a second, or as often as it answers.

    Attributes:
        queued: Images that waited.
        rss_bytes: Memory of its process, which is read without asking the server.
        ready: Statuses of the readiness probe.
        ready_s: How long each probe took.
    """

    queued: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)


@contextmanager
def watching(url: str, pid: int) -> Iterator[Watched]:
    """Watch a server, and its process, until the block ends."""
    watched, enough = Watched(), threading.Event()

    def weigh() -> None:
        while not enough.wait(_EVERY_S):
            watched.rss_bytes.append(memory(pid, "VmRSS"))

    def watch() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while not enough.wait(_EVERY_S):
                started_s = time.perf_counter()
                watched.ready.append(client.get("/v2/health/ready").status_code)
                watched.ready_s.append(time.perf_counter() - started_s)
                text = client.get("/metrics", headers={"Cache-Control": "no-cache"}).text
                watched.queued.append(_value(text, "tta_queue_depth_images{"))

    threads = [threading.Thread(target=each) for each in (weigh, watch)]
    for thread in threads:
        thread.start()
    try:
        yield watched
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns 1 if an answer was lost or wrong."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)  # so that the report says it
    payloads = bodies(_IMAGES)
    before = load_average()
    config = {
        "engine": {"max_queue_rows": options.queue},
        "streams": {
            "named": {_FROZEN: {"mode": "off"}},
            "duplicate_memory": 0,  # the load repeats itself
            "recent_bytes": _MIB,  # the images kept for labels grow to a limit, which would look like a leak
        },
        "guard": {"enabled": options.guard},
        "domains": {"max": 1},  # or these clean images are at home, and nothing is learnt
    }
    with tempfile.TemporaryDirectory() as folder, local_server(Path(folder), config, options.threads) as (url, pid):
        closed_loop(url, 2.0, _CLIENTS, _STREAMS, payloads)  # warms up
        windows(url)  # waits until nothing is learnt
        saturated = _answered(closed_loop(url, 5.0, _CLIENTS, (_FROZEN,), payloads))
        learnt = windows(url)
        with watching(url, pid) as watched:
            sent = open_loop(url, steady(options.times * saturated, options.seconds), _STREAMS, payloads)
        after = windows(url)
        after.subtract(learnt)
        recovered = _answered(closed_loop(url, 5.0, _CLIENTS, (_FROZEN,), payloads))
    lines = [*ran_on(before), f"- guard: {'on' if options.guard else 'off'}"]
    lines += ["", _SATURATED.format(saturated, _IMAGES, recovered), ""]
    lines += _table(sent, watched, after, options.queue)
    publish(lines, options.out)
    return int(any(each.status not in (200, 429) or each.is_wrong for each in sent))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.overload", description="Ask ten times too much.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload (default: %(default)s)")
    parser.add_argument("--times", type=float, default=10.0, help="what saturates the server (default: %(default)s)")
    parser.add_argument("--queue", type=int, default=512, help="images that may wait (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads (default: its own choice)")
    parser.add_argument("--guard", action=argparse.BooleanOptionalAction, default=True, help="judge every step")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _table(sent: Sequence[Sent], watched: Watched, learnt: Counter[str], queue: int) -> list[str]:
    statuses = Counter(each.status for each in sent)
    answered = [each for each in sent if each.status == 200]
    refused = [each for each in sent if each.status == 429]
    span_s = max(each.done_s for each in sent) - min(each.due_s for each in sent)
    waits_s = Counter(each.retry_after for each in refused)
    middle = len(watched.rss_bytes) // 2
    rss = [watched.rss_bytes[0], watched.rss_bytes[middle], watched.rss_bytes[-1]]
    rows = {
        "sent": f"{len(sent)} in {span_s:.0f} s, {len(sent) / span_s:.0f}/s",
        "answers": ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items())),
        "lost, wrong": f"{statuses[0]}, {sum(each.is_wrong for each in sent)}",
        "answered/s": f"{len(answered) / span_s:.0f} requests, {len(answered) * _IMAGES / span_s:.0f} images",
        "latency of the answered": _quantiles([each.done_s - each.due_s for each in answered]),
        "latency of the refused": _quantiles([each.done_s - each.due_s for each in refused]),
        "Retry-After": ", ".join(f"{count} x {wait or 'missing'}" for wait, count in sorted(waits_s.items())),
        "images queued": f"at most {max(watched.queued):.0f} of {queue}",
        "memory": " -> ".join(f"{size / _MIB:.0f}" for size in rss) + " MiB at the start, in the middle, at the end",
        "windows": ", ".join(f"{count} {action}" for action, count in sorted(learnt.items()) if count) or "none",
        "readiness probe": f"{watched.ready.count(200)} of {len(watched.ready)} x 200, {_quantiles(watched.ready_s)}",
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _quantiles(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return ", ".join(f"{name} {quantile(seconds, share) * 1000:.0f} ms" for name, share in _SHARES)


def _answered(sent: Sequence[Sent]) -> float:
    span_s = max(each.done_s for each in sent) - min(each.due_s for each in sent)
    return sum(each.status == 200 for each in sent) / span_s


def _value(metrics: str, series: str) -> float:
    found = [line for line in metrics.splitlines() if line.startswith(series)]
    return float(found[0].split()[-1])


if __name__ == "__main__":
    sys.exit(main())
