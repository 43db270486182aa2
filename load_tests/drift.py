"""How soon drift is seen, how often where there is none, and what watching costs.

    python -m load_tests.drift
    python -m load_tests.drift --clean-windows 1000 --corruptions fog --rounds 20

The embedded network and its test images, in the server's own worker. Each corruption comes after clean images, on a
stream that learns and tells domains apart and on one in mode `off`, and clean images come after it; then the demo's
scenes follow one another. False alarms are
counted on clean windows, drawn with replacement from images that the bundle was not made of: of the scores alone, and
of the look of requests alone.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from load_tests import drift_replay
from load_tests.clock import Run, alternate, spread
from load_tests.machine import load_average
from load_tests.report import publish, ran_on
from load_tests.routed import WINDOW, Routed, Scene, scene
from tta_server.demo import camera
from tta_server.demo.demo_command import SEED
from tta_server.domains.place import Group, Place
from tta_server.domains.route import NEW, route
from tta_server.domains.space import StyleSpace
from tta_server.drift.monitor import Monitor
from tta_server.drift.watch import Watch
from tta_server.evaluate.corruptions import CORRUPTIONS, corrupt
from tta_server.models import glyphs
from tta_server.settings import DriftSettings, Mode
from tta_server.streams.window import Offered, prepared

_REQUEST = 16
_BEFORE, _AFTER = 16, 128  # requests of clean images before a corruption; most of it, and of clean images after it
_SEVERITY = 5
_SPOILT = 512  # of the test images; others stay clean
_DOMAINS = 16
_TIME = "2026-01-01T00:00:00.000+00:00"


class Course(NamedTuple):
    """What happened to a stream that met a corruption.

    Attributes:
        noticed: Requests of it until the stream was in drift; None if it never was.
        because: What said so.
        over: Requests of clean images until it was stable again.
    """

    noticed: int | None
    because: str
    over: int | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    before, shown = load_average(), scene("glyphs", torch.device("cpu"))
    lines = [*_clean(shown, options.clean_windows), *_soon(shown, options.corruptions)]
    lines += _in_the_demos_order(shown, options.scene_images)
    lines += [*_cost(shown, options.requests, options.rounds, options.seconds)]
    publish([*ran_on(before, shown.backbone.device), "", *lines], options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.drift", description="Measure how drift is seen.")
    parser.add_argument("--clean-windows", type=int, default=10_000, help="of 64 images each")
    parser.add_argument("--corruptions", nargs="*", default=list(CORRUPTIONS), help="at severity 5")
    parser.add_argument("--scene-images", type=int, default=256, help="of each scene of the demo; 0 leaves that out")
    parser.add_argument(
        "--requests", nargs="*", type=int, default=[1, 16, 64], help="images of a request, for the cost"
    )
    parser.add_argument("--rounds", type=int, default=300, help="most pairs for one number (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="for one number; it takes 3 pairs at least")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _clean(shown: Scene, windows: int) -> Iterator[str]:
    """Count false alarms on clean windows."""
    print("clean windows", file=sys.stderr)
    monitor = Monitor.of(shown.reference, shown.backbone.norm_stats(), DriftSettings(), WINDOW)
    space, rows, styles = StyleSpace.of(shown.reference), [], []
    for x in torch.from_numpy(glyphs.images("test")[0][: max(windows, 1) * WINDOW]).float().div(255).split(128):
        found, output = space.styles(shown.backbone, x)
        assert output is not None, "an answer was asked for"
        rows.append(monitor.rows_of(output))
        styles.append(found)
    images, looks, home = np.concatenate(rows), torch.cat(styles), Place.source(len(space.mean), space.images)
    rng, scored, looked, opened = np.random.default_rng(0), [Watch()], [Watch()], 0
    for _ in range(windows):
        chosen = rng.integers(len(images), size=WINDOW)
        scored.append(monitor.saw(scored[-1], images[chosen], _TIME))
        for request in torch.from_numpy(chosen).split(_REQUEST):
            where = route([home], Group(looks[request].numpy()), space.limit)
            opened += NEW in where
            looked.append(monitor.looked(looked[-1], len(where), sum(map(bool, where)), _TIME))
    alarms, warnings = _begun(scored, "drift"), _begun(scored, "warning")
    yield f"On {windows:,} clean windows of {WINDOW} images the scores alone raise {alarms} false alarms and {warnings}"
    yield f"warnings; the look alone of their {windows * WINDOW // _REQUEST:,} requests raises"
    yield f"{_begun(looked, 'drift')}, and {opened} of these would open a domain."
    yield ""


def _begun(watches: Sequence[Watch], state: str) -> int:
    return sum(one.state != state == other.state for one, other in pairwise(watches))


def _soon(shown: Scene, corruptions: Sequence[str]) -> Iterator[str]:
    """Say how many requests it takes until each corruption is noticed, and until that is over."""
    images, labels = glyphs.images("test")
    clean = drift_replay.error_of(shown, images[-_SPOILT:], labels[-_SPOILT:]) if corruptions else 0.0
    yield f"Requests of {_REQUEST} images at severity {_SEVERITY} until the state is drift, and of clean ones until it"
    yield f"is stable again; the frozen model misreads {clean:.1%} of clean images."
    yield ""
    yield "| | frozen error | until drift | because | until stable | `off`: until drift | because | until stable |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in corruptions:
        print(name, file=sys.stderr)
        spoilt = corrupt(images[:_SPOILT], name, _SEVERITY)
        courses = [_course(shown, images[_SPOILT:], spoilt, mode) for mode in ("after", "off")]
        cells = [
            str(cell)
            for course in courses
            for cell in (_or_never(course.noticed), course.because, _or_never(course.over))
        ]
        yield f"| {name} | {drift_replay.error_of(shown, spoilt, labels[:_SPOILT]):.1%} | {' | '.join(cells)} |"
    yield ""


def _in_the_demos_order(shown: Scene, images: int) -> Iterator[str]:
    """Say how drift is seen while the demo's scenes follow one another."""
    if images:
        print("the demo's scenes", file=sys.stderr)
        yield from drift_replay.report(shown, camera.camera(images, _SEVERITY, SEED, lambda _name: None))
        yield ""


def _or_never(requests: int | None) -> str:
    return "never" if requests is None else str(requests)


def _course(shown: Scene, clean: np.ndarray, spoilt: np.ndarray, mode: Mode) -> Course:
    stream, rng = Routed(shown, WINDOW, _DOMAINS, mode), np.random.default_rng(0)

    def until(images: np.ndarray, state: str, most: int) -> int | None:
        for request in range(1, most + 1):
            stream.answer(prepared(images[rng.permutation(len(images))[:_REQUEST]]))
            stream.learn()
            if stream.watch.state == state:
                return request
        return None

    until(clean, "never", _BEFORE)
    noticed = until(spoilt, "drift", _AFTER)
    because = stream.watch.because or ""
    return Course(noticed, because, until(clean, "stable", _AFTER) if noticed else None)


def _cost(shown: Scene, requests: Sequence[int], rounds: int, seconds: float) -> Iterator[str]:
    """Say how many predictions per second there are while drift is watched, over those while it is not."""
    print("cost", file=sys.stderr)
    yield "Predictions per second of processor time, drift watched over not watched, median (10th-90th percentile) of"
    yield "the pairs; all on one thread, so that neighbours on the machine take little part."
    yield ""
    yield "| | requests of | predictions/s, watched | ratio | pairs |"
    yield "|---|---|---|---|---|"
    for title, images, mode in (
        ("`off`", shown.home, "off"),
        ("at home", shown.home, "after"),
        ("away, with the steps that it takes", shown.away, "after"),
    ):
        sides = [Routed(shown, WINDOW, _DOMAINS, mode, watched) for watched in (False, True)]
        for count in requests:
            each = [prepared(images[start : start + count]) for start in range(0, len(images) - count + 1, count)]
            plain, other = (partial(_fill_a_window, side, cycle(each), WINDOW // count) for side in sides)
            pairs = alternate(plain, other, _clock, rounds, seconds, warm_up=1)
            rate = (WINDOW // count) * count / statistics.median(pairs.other_s)
            ratios = spread([1 / ratio for ratio in pairs.ratios])
            yield f"| {title} | {count} | {rate:.0f} | {ratios} | {len(pairs.ratios)} |"
    yield ""


def _clock(run: Run) -> float:
    started_s = time.process_time()
    run()
    return time.process_time() - started_s


def _fill_a_window(side: Routed, turns: Iterator[Offered], requests: int) -> None:
    for _ in range(requests):
        side.answer(next(turns))
    side.learn()


if __name__ == "__main__":
    sys.exit(main())
