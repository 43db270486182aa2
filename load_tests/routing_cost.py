"""What telling domains apart costs: requests answered by the server's own worker with domains and without.

    python -m load_tests.routing_cost
    python -m load_tests.routing_cost --models glyphs --requests 1 16 64 --rounds 60

Images per second, pair by pair: at home over a stream in mode `off`, which is the frozen model alone, and over one
state for everything; away, where a learnt domain answers, over one state that has learnt too. Nothing is learnt while
answers are timed. Then what a learning step costs, and what a domain takes in memory.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

from load_tests.clock import Clock, Pairs, Run, alternate, clock_for, spread
from load_tests.machine import load_average
from load_tests.report import head, publish, ran_on, row
from load_tests.routed import WINDOW, Routed, Scene, scene
from tta_server.streams.window import prepared

_DOMAINS = 16  # the default
_STEPS = 4  # of a domain, before its answers are timed
_SIZED = "resnet50"  # measured for its shapes; images of few pixels do, for no state depends on their size


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    before = load_average()
    lines: list[str] = []
    for name in options.models:
        print(name, file=sys.stderr)
        shown = scene(name, device)
        routed, one = (_taught(shown, options.window, domains) for domains in (_DOMAINS, 1))
        lines += [*_answers(shown, routed, one, options), *_steps(shown, routed, one, options)]
        lines += _memory(shown, routed, one)
    if options.sized:
        shown = scene(options.sized, device, pixels=64)
        lines += _memory(shown, *(_taught(shown, options.window, domains) for domains in (_DOMAINS, 1)))
    publish([*ran_on(before, device), "", *lines], options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.routing_cost", description="Measure what domains cost.")
    parser.add_argument(
        "--models", nargs="+", default=["glyphs", "resnet18"], help="glyphs, or torchvision classifiers"
    )
    parser.add_argument("--requests", nargs="+", type=int, default=[1, 16, 64], help="images of a request")
    parser.add_argument("--window", type=int, default=WINDOW, help="images of a window, at most the default, 64")
    parser.add_argument("--rounds", type=int, default=40, help="most pairs for one number (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="for one number; it takes 3 pairs at least")
    parser.add_argument("--sized", default=_SIZED, help="one more network, for its memory alone; empty for none")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:1 (default: the GPU if there is one)")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads on the CPU (default: its own choice)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _answers(shown: Scene, routed: Routed, one: Routed, options: argparse.Namespace) -> Iterator[str]:
    clock = clock_for(shown.backbone.device)
    off, fresh = Routed(shown, options.window, 1, "off"), Routed(shown, options.window, 1)
    yield f"**{shown.name}**, {shown.shape}: images per second with domains over those without, median (10th-90th"
    yield "percentile) of the pairs"
    yield ""
    yield from head("", "requests of", "images/s with domains", "ratio", "pairs", "where they went")
    sides = [
        ("at home, over the frozen model (`off`)", shown.home, off),
        ("at home, over one state that has learnt nothing", shown.home, fresh),
        ("away, over one state", shown.away, one),
        ("away, over the frozen model (`off`)", shown.away, off),
    ]
    for title, images, other in sides:
        for count in options.requests:
            routed.settle(images[: options.window])
            pairs = _alternate(other, routed, images, count, clock, options)
            rate = count / statistics.median(pairs.other_s)
            ratios = spread([1 / ratio for ratio in pairs.ratios])
            yield row(title, str(count), f"{rate:.0f}", ratios, str(len(pairs.ratios)), routed.where)
    yield ""


def _taught(shown: Scene, window_rows: int, domains: int) -> Routed:
    """Return a worker that has learnt from spoilt images; a full window waits."""
    made, shown_rows = Routed(shown, window_rows, domains), prepared(shown.away[:window_rows])
    for _ in range(_STEPS):
        made.answer(shown_rows)
        made.learn()
    made.answer(shown_rows)
    return made


def _alternate(
    plain: Routed, other: Routed, images: np.ndarray, count: int, clock: Clock, options: argparse.Namespace
) -> Pairs:
    requests = [prepared(images[start : start + count]) for start in range(0, len(images) - count + 1, count)]
    turns = {side: cycle(requests) for side in (plain, other)}
    sides: list[Run] = [lambda side=side: side.answer(next(turns[side])) for side in turns]  # type: ignore[misc]
    return alternate(*sides, clock, options.rounds, options.seconds, warm_up=2)


def _steps(shown: Scene, routed: Routed, one: Routed, options: argparse.Namespace) -> Iterator[str]:
    """Say what a window costs, once it is full: the guard's looks and the step."""
    rows = prepared(shown.away[: options.window])
    times: dict[Routed, list[float]] = {one: [], routed: []}
    clock = clock_for(shown.backbone.device)
    started_s = time.monotonic()
    for turn in range(options.rounds):
        if turn >= 3 and time.monotonic() - started_s > options.seconds:
            break
        for side in (one, routed) if turn % 2 else (routed, one):
            times[side].append(clock(side.learn))
            side.answer(rows)
    ratios = spread([with_s / without_s for without_s, with_s in zip(times[one], times[routed], strict=True)])
    median_ms = statistics.median(times[routed]) * 1000
    yield f"A learning step on {options.window} images, guard on, takes {median_ms:.1f} ms with domains, {ratios} of"
    yield f"that without; {len(times[one])} pairs."
    yield ""


def _memory(shown: Scene, routed: Routed, one: Routed) -> Iterator[str]:
    yield f"**{shown.name}**, {shown.shape}: bytes once steps were taken, a full window waiting; the space"
    yield f"of styles, one for all, takes {shown.space_bytes:,}"
    yield ""
    yield from head("", "state", "history", "window")
    stream, *domains = routed.streams
    rows = {
        "a stream that tells domains apart, without them": stream,
        "each of its domains": max(domains, key=lambda domain: domain.images),
        "a stream of one state": one.streams[0],
    }
    for title, each in rows.items():
        yield row(title, *(f"{each.bytes[kind]:,}" for kind in ("state", "history", "window")))
    yield ""


if __name__ == "__main__":
    sys.exit(main())
