"""HTTP load on a running server: what a client sees, at a rate that does not wait for answers.

    python -m load_tests.load --rate 100 --seconds 10

Latency counts from the time a request was due, so a stalled server shows in every request that it kept waiting.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from load_tests.arrivals import SHAPES, steady
from load_tests.client import Body, Sent, bodies, closed_loop, open_loop
from load_tests.clock import quantile
from load_tests.local_server import local_server, windows
from load_tests.machine import load_average
from load_tests.report import head, publish, ran_on, row

_FROZEN, _ADAPTING = "bench-off", "bench-after"
_CONNECTIONS = 16
_COMPARE_ROUNDS = 6
_QUANTILES = (0.5, 0.95, 0.99, 1.0)
_COLUMNS = (
    *("shape", "due/s", "sent", "answers", "lost", "wrong", "answered/s", "images/s"),
    *("p50 ms", "p95 ms", "p99 ms", "max ms", "sent late, p99 ms", "windows"),
)


@dataclass(frozen=True)
class Load:
    """What is sent to whom.

    Attributes:
        url: The server.
        streams: Streams that take turns.
        payloads: Bodies that take turns.
        rate: Requests/s.
        seconds: How long.
    """

    url: str
    streams: tuple[str, ...]
    payloads: list[Body]
    rate: float
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns 1 if an answer was lost or wrong."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)  # so that the report says it
    payloads = bodies(options.images_per_request)
    # A collection walks all that torch has imported, tens of ms that would be blamed on the server.
    gc.collect()
    gc.freeze()
    try:
        report, failed = _run(options, payloads)
    finally:
        gc.unfreeze()
    publish(report, options.out)
    return int(failed)


def _run(options: argparse.Namespace, payloads: list[Body]) -> tuple[list[str], bool]:
    if options.url:
        return _measure(options, options.url.rstrip("/"), payloads)
    config = {
        "adapter": {"name": options.adapter},
        # The load repeats itself, is clean, and nothing in it drifts: without these three, nothing would be learnt.
        "streams": {"duplicate_memory": 0, "named": {_FROZEN: {"mode": "off"}, _ADAPTING: {"mode": "after"}}},
        "guard": {"enabled": False},
        "domains": {"max": 1},
    }
    with tempfile.TemporaryDirectory() as folder, local_server(Path(folder), config, options.threads) as (url, _):
        return _measure(options, url, payloads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.load", description="Put HTTP load on a server.")
    parser.add_argument("--url", default="", help="a running server (default: start one with the embedded model)")
    parser.add_argument("--adapter", default="tent", help="of the server that is started (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=0, help="torch's threads in that server (default: its own choice)"
    )
    parser.add_argument("--rate", type=float, help="requests/s (default: half of what saturates the server)")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each shape (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=4, help="streams that take turns (default: %(default)s)")
    parser.add_argument("--images-per-request", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _measure(options: argparse.Namespace, url: str, payloads: list[Body]) -> tuple[list[str], bool]:
    before = load_average()
    streams = tuple(f"load-{count}" for count in range(options.streams))
    _progress("warming up")
    closed_loop(url, 1.0, _CONNECTIONS, streams, payloads)
    saturated = _rate(closed_loop(url, 4.0, _CONNECTIONS, streams, payloads))
    load = Load(url, streams, payloads, options.rate or saturated / 2, options.seconds)
    lines = [f"Saturated by {_CONNECTIONS} clients that wait for their answers: {saturated:.0f} requests/s.", ""]
    lines += head(*_COLUMNS)
    failed = False
    for shape in SHAPES:
        line, bad = _shape(load, shape)
        lines.append(line)
        failed |= bad
    if not options.url:
        lines += ["", *_compare(load)]
    return [*ran_on(before), "", *lines], failed


def _shape(load: Load, shape: str) -> tuple[str, bool]:
    _progress(f"{shape}: {load.rate:.0f} requests/s for {load.seconds:.0f} s")
    before = windows(load.url)
    sent = open_loop(load.url, SHAPES[shape](load.rate, load.seconds), load.streams, load.payloads)
    learnt = windows(load.url)
    learnt.subtract(before)
    statuses = Counter(request.status for request in sent)
    lost, wrong = statuses.pop(0, 0), sum(request.is_wrong for request in sent)
    reasons = Counter(request.lost for request in sent if request.lost)
    late_ms = quantile([request.sent_s - request.due_s for request in sent], 0.99) * 1000
    return row(
        shape,
        f"{load.rate:.0f}",
        str(len(sent)),
        ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items())),
        ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "0",
        str(wrong),
        f"{_rate(sent):.0f}",
        f"{_rate(sent) * load.payloads[0].images:.0f}",
        *(f"{latency:.1f}" for latency in _latencies_ms(sent)),
        f"{late_ms:.1f}",
        ", ".join(f"{count} {action}" for action, count in sorted(learnt.items()) if count) or "none",
    ), bool(lost or wrong)


def _compare(load: Load) -> list[str]:
    """Compare a frozen stream with one that learns, one after the other in one server, in reversed order each round."""
    ratios: dict[str, list[float]] = {"p50": [], "p99": []}
    for count in range(_COMPARE_ROUNDS):
        order = (_FROZEN, _ADAPTING) if count % 2 == 0 else (_ADAPTING, _FROZEN)
        _progress(f"off against after, round {count + 1} of {_COMPARE_ROUNDS}")
        latencies = {stream: _one_stream(load, stream) for stream in order}
        for name, index in (("p50", 0), ("p99", 2)):
            ratios[name].append(latencies[_ADAPTING][index] / latencies[_FROZEN][index])
    text = [f"{name} {statistics.median(all_):.2f} ({min(all_):.2f}-{max(all_):.2f})" for name, all_ in ratios.items()]
    each_s = load.seconds / 3
    return [
        f"Mode `after` over mode `off`, one stream, steady {load.rate:.0f} requests/s, {_COMPARE_ROUNDS} pairs of "
        f"{each_s:.0f} s, latency, median (min-max) of the pairs: {', '.join(text)}."
    ]


def _one_stream(load: Load, stream: str) -> list[float]:
    sent = open_loop(load.url, steady(load.rate, load.seconds / 3), (stream,), load.payloads)
    windows(load.url)  # waits until the last window is learnt, which must not slow the other stream
    return _latencies_ms(sent)


def _latencies_ms(sent: Sequence[Sent]) -> list[float]:
    answered = [(request.done_s - request.due_s) * 1000 for request in sent if request.status == 200]
    return [quantile(answered, share) for share in _QUANTILES] if answered else [float("nan")] * len(_QUANTILES)


def _rate(sent: Sequence[Sent]) -> float:
    span_s = max(request.done_s for request in sent) - min(request.due_s for request in sent)
    return sum(request.status == 200 for request in sent) / span_s


def _progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text} (load average {os.getloadavg()[0]:.1f})", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
