"""What the guard prevents and what it costs: streams made to do harm, the protocols, and a long healthy stream.

    python -m load_tests.guard

Each table has the frozen model, the adapter alone, and the server at its defaults: guarded, domains told apart.
"""

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from load_tests.adverse import DEMO_RATE, UNCOUNTED, Album, Stream, streams, turns
from load_tests.machine import describe, load_average
from tta_server import adapters
from tta_server.adapters import Adapter
from tta_server.evaluate.corruptions import CORRUPTIONS
from tta_server.evaluate.protocols import PROTOCOLS, Course, plan
from tta_server.evaluate.published import open_dataset
from tta_server.evaluate.reader import Reader
from tta_server.evaluate.run import Bench, run
from tta_server.evaluate.session import Session
from tta_server.models import catalog
from tta_server.runtime.job import HOME
from tta_server.settings import GuardSettings
from tta_server.streams.window import Images

COUNTED, TOGETHER, MARGIN = 64, 20, 0.03  # images of a counted window; windows of a running mean; allowed excess
_SLOW_IMAGES = 16
_DOMAINS = 16  # the default
_EACH = 768  # of each condition: so that a class fills more than a window

Flags = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables as Markdown; returns 1 if the guard did not keep what it promises."""
    options = _parser().parse_args(arguments)
    logging.disable(logging.ERROR)  # a stream that is switched off is what is measured here
    torch.set_num_threads(1)
    model = catalog.load("glyphs")
    dataset = open_dataset("glyphs", model, 0)
    reader = Reader(dataset, options.folder / "images")
    bench = Bench(model.backbone, model.reference, reader, 64)
    print("\n".join(f"- {name}: {fact}" for name, fact in describe(model.backbone.device).items()))
    print(f"- load average: {load_average():.1f} before")
    kept = True
    for part, title in (("adverse", "Streams made to do harm"), ("turns", "Domains that take turns")):
        if part in options.parts:
            kept &= _adverse(options, part, title)
    if "protocols" in options.parts:
        kept &= _protocols(bench, options.images)
    if "healthy" in options.parts:
        kept &= _healthy(bench, Album(dataset, reader, _EACH), options.windows, options.rates)
    print("\nThe guard kept its promises." if kept else "\nThe guard did NOT keep its promises.")
    return int(not kept)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.guard", description="Measure what the guard does.")
    parts = ("adverse", "turns", "protocols", "healthy")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="which tables (default: all)")
    parser.add_argument("--only", default="", help="of the adverse streams, those whose names contain this")
    parser.add_argument(
        "--turns", type=int, default=200, help="streams whose domains take turns (default: %(default)s)"
    )
    parser.add_argument(
        "--images", type=int, default=256, help="of each condition of the protocols (default: %(default)s)"
    )
    parser.add_argument("--windows", type=int, default=10_000, help="of the healthy stream (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="streams shown at once (default: %(default)s)")
    rates = (2.5e-4, DEMO_RATE)
    parser.add_argument("--rates", type=float, nargs="+", default=rates, help="of the healthy stream")
    parser.add_argument("--folder", type=Path, default=Path("evaluation"), help="keeps corrupted images")
    return parser


def _adverse(options: argparse.Namespace, part: str, title: str) -> bool:
    print(
        f"\n**{title}**: error in %; the worst running mean of {TOGETHER} windows of {COUNTED} "
        f"images, in points above frozen; the most windows in a row that are more than {100 * MARGIN:.0f} points above "
        "frozen.\n"
    )
    _head("stream, frozen, alone, guarded, worst: alone, guarded, in a row: alone, guarded, restores, switched off")
    bench, shown = _shown(options, part)
    album = Album(open_dataset("glyphs", catalog.load("glyphs"), 0), bench.reader, _EACH)
    for name in ("clean", *CORRUPTIONS):
        album.mixed(name)  # spoilt once, before several processes want it
    wanted = [index for index, stream in enumerate(shown) if options.only in stream.name]
    kept = True
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for row, promised in pool.map(_survives, *zip(*((options, part, index) for index in wanted), strict=True)):
            print(row, flush=True)
            kept &= promised
    return kept


def _shown(options: argparse.Namespace, part: str) -> tuple[Bench, list[Stream]]:
    model = catalog.load("glyphs")
    dataset = open_dataset("glyphs", model, 0)
    reader = Reader(dataset, options.folder / "images")
    album = Album(dataset, reader, _EACH)
    shown = list(streams(album) if part == "adverse" else turns(album, options.turns))
    return Bench(model.backbone, model.reference, reader, 64), shown


def _survives(options: argparse.Namespace, part: str, index: int) -> tuple[str, bool]:
    """Return a row of the table, and whether the promise was kept; runs in a process of its own."""
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    bench, shown = _shown(options, part)
    stream = shown[index]
    images, labels = stream.make()
    bench = replace(bench, batch=stream.window)
    tent = adapters.create("tent", **stream.settings)
    guarded = replace(bench, guard=GuardSettings(), domains=_DOMAINS).session(tent, inline=False)
    frozen = _wrong(bench.session(adapters.create("source"), inline=False), images, labels, 64)
    alone = _wrong(bench.session(tent, inline=False), images, labels, stream.request)
    kept = _wrong(guarded, images, labels, stream.request)
    counted = labels != UNCOUNTED
    errors = [f"{100 * wrong[counted].mean():.1f}" for wrong in (frozen, alone, kept)]
    worst, rows = zip(*(harm(wrong, frozen, counted) for wrong in (alone, kept)), strict=True)
    numbers = [*errors, *(f"{100 * points:+.1f}" for points in worst), *map(str, rows), str(guarded.restores)]
    off = "yes" if any(domain.frozen for domain in guarded.domains) else ""
    return f"| {stream.name} | {' | '.join(numbers)} | {off} |", worst[1] <= MARGIN and rows[1] <= TOGETHER


def harm(wrong: Flags, frozen: Flags, counted: Flags) -> tuple[float, int]:
    """Return how much worse than the frozen model a stream was at its worst.

    Args:
        wrong: Which images the stream misread (N,).
        frozen: Which the frozen model misread (N,).
        counted: Which have a right answer (N,).

    Returns:
        The largest running mean over 20 windows, and the most consecutive windows beyond the margin.
    """
    windows = np.array_split(np.arange(len(wrong)), max(1, len(wrong) // COUNTED))
    excess = [float(wrong[part].mean() - frozen[part].mean()) for w in windows if len(part := w[counted[w]])]
    together = min(TOGETHER, len(excess))
    means = np.convolve(excess, np.ones(together) / together, "valid")
    longest = row = 0
    for value in excess:
        row = row + 1 if value > MARGIN else 0
        longest = max(longest, row)
    return float(means.max()), longest


def _wrong(session: Session, images: Images, labels: Labels, request: int) -> Flags:
    parts = [slice(start, start + request) for start in range(0, len(labels), request)]
    return np.concatenate([session.answer(images[part]) for part in parts]) != labels


def _protocols(bench: Bench, images: int) -> bool:
    print(
        f"\n**Protocols** of `tta-server evaluate`, {images} images a domain, TENT at its default rate: mean error, "
        "and error on the clean images before and after, in %.\n"
    )
    _head("protocol, images, frozen, alone, guarded, before: frozen, alone, guarded, after: frozen, alone, guarded")
    kept = True
    for clean in (False, True):
        for protocol in PROTOCOLS:
            kept &= _protocol(bench, protocol, images, clean)
    return kept


def _protocol(bench: Bench, protocol: str, images: int, clean: bool) -> bool:
    dataset = open_dataset("glyphs", catalog.load("glyphs"), 0)
    phases = plan(protocol, dataset, Course(images=images, clean=clean))
    bench.reader.prepare(phases, lambda _images: None)
    tent: Adapter = adapters.create("tent")
    tries = [
        (bench, adapters.create("source")),
        (bench, tent),
        (replace(bench, guard=GuardSettings(), domains=_DOMAINS), tent),
    ]
    results = [run(each, adapter, adapter.name, protocol, phases, lambda _images: None) for each, adapter in tries]
    columns = [[result.mean, result.clean, result.clean_again] for result in results]
    errors = [[value or 0.0 for value in column] for column in columns]
    cells = [f"{100 * column[row]:.1f}" for row in range(3) for column in errors]
    print(f"| {protocol} | {'clean' if clean else 'corrupted'} | {' | '.join(cells)} |", flush=True)
    return all(guarded <= frozen + 0.01 for frozen, guarded in zip(errors[0], errors[2], strict=True))


def _healthy(bench: Bench, album: Album, windows: int, rates: Sequence[float]) -> bool:
    """Show clean and corrupted images in turn for a long time: how often is a stream taken back without need?"""
    print(
        f"\n**Healthy streams** of {windows} windows of {_SLOW_IMAGES} images, clean and the corruptions in turn, each "
        "in random order. Restores: times that the guard took the stream back; promised is at most 1.\n"
    )
    _head("learning rate, frozen, guarded, learnt from, at home, restores, seconds")
    begun_s, restores = time.perf_counter(), []
    source = bench.session(adapters.create("source"), inline=False)
    stretches = [(images, labels, _wrong(source, images, labels, 64)) for images, labels in album.everything()]
    for rate in rates:
        tent = adapters.create("tent", lr=rate)
        session = replace(bench, batch=_SLOW_IMAGES, guard=GuardSettings(), domains=_DOMAINS).session(
            tent, inline=False
        )
        seen: Counter[str] = Counter()
        for images, labels, frozen in _endless(stretches, windows):
            seen["wrong"] += int((session.answer(images) != labels).sum())
            seen["source"] += session.places.count(HOME)
            seen["frozen"] += int(frozen.sum())
        total = windows * _SLOW_IMAGES
        shares = seen["frozen"] / total, seen["wrong"] / total, session.stream.learnt / total, seen["source"] / total
        cells = [*(f"{100 * share:.1f}" for share in shares), str(session.restores)]
        print(f"| {rate:g} | {' | '.join(cells)} | {time.perf_counter() - begun_s:.0f} |", flush=True)
        restores.append(session.restores)
    return max(restores) <= 1


def _endless(stretches: Sequence[tuple[Images, Labels, Flags]], windows: int) -> Iterator[tuple[Images, Labels, Flags]]:
    """Return windows of one stretch after the other, each time in another order."""
    shown, turn = 0, 0
    while True:
        images, labels, frozen = stretches[turn % len(stretches)]
        order = np.random.default_rng(turn).permutation(len(labels))
        for start in range(0, len(labels) - _SLOW_IMAGES + 1, _SLOW_IMAGES):
            if shown == windows:
                return
            part = order[start : start + _SLOW_IMAGES]
            yield images[part], labels[part], frozen[part]
            shown += 1
        turn += 1


def _head(columns: str) -> None:
    names = columns.split(", ")
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")


if __name__ == "__main__":
    sys.exit(main())
