"""What a state for each domain gains: a prototype of routing by style, offline, beside what there is.

    python -m load_tests.domains
    python -m load_tests.domains --stream turns --requests 16 1
    python -m load_tests.domains --config model.yaml --source calibrate/ --images evaluate/

This says what routing is worth without a guard, on a network of yours too. Each seed draws other images.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from load_tests.courses import CLEAN, CLEAN_AFTER, KINDS, ROUNDS, Pool, Stretch, by_name, streams
from load_tests.machine import describe, load_average
from load_tests.routed import Routed
from tta_server import adapters
from tta_server.adapters import State
from tta_server.app import load_model
from tta_server.calibrate.labelled import Labelled, read
from tta_server.calibrate.style import style
from tta_server.domains.space import StyleSpace
from tta_server.evaluate.corruptions import CORRUPTIONS
from tta_server.models import Backbone, Model, Reference, glyphs
from tta_server.settings_file import load_settings

FIRST = 64
WINDOW = 64
LONG = 20 * WINDOW  # what is promised is promised of 20 windows in a row

Answer = Callable[[Tensor], Tensor]
Line = dict[str, float]
Wrong = list[np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model(load_settings(options.config, {} if options.config else {"model": {"device": "cpu"}}).model)
    before = load_average()
    found: dict[str, list[Line]] = {}
    for seed in range(options.seeds):
        source, pool = _data(model, options, seed)
        space = _space(model.backbone, source, seed)
        for stream, stretches in streams(options.stream, pool.labels, options.count, seed).items():
            for side, line in _lines(model.backbone, space, stretches, pool, options):
                found.setdefault(f"{stream}: {side}" if stream != options.stream else side, []).append(line)
    facts = describe(model.backbone.device) | {"load average": f"{before:.1f} before, {load_average():.1f} after"}
    report = "\n".join([*(f"- {name}: {fact}" for name, fact in facts.items()), "", *_table(found)])
    print(report)
    if options.out:
        options.out.write_text(report + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.domains", description=__doc__)
    parser.add_argument("--config", type=Path, help="configuration of the model (default: the embedded one)")
    parser.add_argument("--source", default="glyphs", help="its source images, a folder a class")
    parser.add_argument("--images", default="glyphs", help="the images that are shown, a folder a class")
    parser.add_argument("--stream", default="continual", choices=KINDS, help="what is shown (default: %(default)s)")
    parser.add_argument("--requests", type=int, nargs="+", default=[16, 1], help="sizes of requests that are routed")
    parser.add_argument("--count", type=int, default=256, help="images of each domain (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="streams, each of other images (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2.5e-4, help="learning rate of TENT (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _data(model: Model, options: argparse.Namespace, seed: int) -> tuple[Labelled, Pool]:
    def told(_what: str, _done: int, _total: int) -> None:
        pass

    source = read(options.source, model, 1000, 0, told)
    shown = (
        Labelled(*glyphs.images("test")) if options.images == "glyphs" else read(options.images, model, 4000, 0, told)
    )
    rows = np.random.default_rng(seed).permutation(len(shown.labels))[: max(640, options.count)]
    return source, Pool(shown.images[rows], shown.labels[rows], seed)


def _space(backbone: Backbone, source: Labelled, seed: int) -> StyleSpace:
    tensors, about = style(backbone, source.images, np.random.default_rng(seed), WINDOW, lambda *_: None)
    return StyleSpace.of(Reference(backbone.spec.digest, tensors, about))


def _lines(
    backbone: Backbone, space: StyleSpace, stretches: list[Stretch], pool: Pool, options: argparse.Namespace
) -> Iterator[tuple[str, Line]]:
    """Answer a stream by each side, and say what became of it."""
    describes = {"continual": _continual, "recurring": _recurring}.get(options.stream, _any)
    frozen = _run(lambda x: backbone.forward(x).logits, stretches, pool, WINDOW)
    yield "frozen", describes(stretches, frozen, frozen)
    if options.stream == "continual":
        yield (
            "one state (`stats: ema`)",
            describes(stretches, _run(_one_state(backbone, options.lr), stretches, pool, 16), frozen),
        )
        batch = adapters.create("tent", lr=options.lr, stats="batch")
        wrong = _run(_learning(batch, backbone), stretches, pool, WINDOW)
        yield "each batch of 64 by its own statistics (`stats: batch`)", describes(stretches, wrong, frozen)
    for rows in options.requests:
        routed = Routed(backbone, space, options.lr, WINDOW)
        line = describes(stretches, _run(routed.answer, stretches, pool, rows), frozen)
        counts = {"opened": float(routed.routing.opened), "merged": float(routed.routing.merged)}
        yield f"routed by style, requests of {rows}", line | counts


def _continual(stretches: list[Stretch], wrong: Wrong, frozen: Wrong) -> Line:
    """Say what a stream through all corruptions cost, in %."""
    whole, first = by_name(stretches, wrong), by_name(stretches, [part[:FIRST] for part in wrong])
    whole_frozen, first_frozen = by_name(stretches, frozen), by_name(stretches, [part[:FIRST] for part in frozen])
    return {
        "mean": statistics.mean(whole[name] for name in CORRUPTIONS),
        "first 64": statistics.mean(first[name] for name in CORRUPTIONS),
        "worst domain over frozen": max(whole[name] - whole_frozen[name] for name in CORRUPTIONS),
        "worst first 64 over frozen": max(first[name] - first_frozen[name] for name in CORRUPTIONS),
        "clean before": whole[CLEAN],
        "clean after": whole[CLEAN_AFTER],
    }


def _recurring(stretches: list[Stretch], wrong: Wrong, frozen: Wrong) -> Line:
    """Say how each round went, in %, and how the first images of known domains went against those after them."""
    size = len(CORRUPTIONS)
    rounds = [wrong[start : start + size] for start in range(0, len(wrong), size)]
    known = [np.stack(shown) for shown in zip(*rounds[1:], strict=True)]
    late = [100 * float(each[:, :FIRST].mean() - each[:, FIRST:].mean()) for each in known if each.shape[1] > FIRST]
    means = {f"round {number + 1}": 100 * float(np.concatenate(rounds[number]).mean()) for number in range(ROUNDS)}
    over = {"known: first 64 over later": statistics.mean(late), "the worst": max(late)} if late else {}
    return means | over | {"worst 20 windows over frozen": worst(wrong, frozen)}


def _any(stretches: list[Stretch], wrong: Wrong, frozen: Wrong) -> Line:
    """Say what clean and spoilt images cost, in %."""
    found = {}
    for name, is_clean in (("clean", True), ("spoilt", False)):
        own = [
            answers for stretch, answers in zip(stretches, wrong, strict=True) if (stretch.name == CLEAN) is is_clean
        ]
        found[name] = 100 * float(np.concatenate(own).mean()) if own else math.nan
    return found | {"worst 20 windows over frozen": worst(wrong, frozen)}


def worst(wrong: Wrong, frozen: Wrong) -> float:
    """Return by how many points the worst 20 windows in a row are above the frozen model; all, if there are fewer."""
    over = np.concatenate(wrong).astype(float) - np.concatenate(frozen)
    sums = np.concatenate([[0.0], over.cumsum()])
    length = min(LONG, len(over))
    return 100 * float((sums[length:] - sums[:-length]).max()) / length


def _learning(adapter: adapters.Adapter, backbone: Backbone) -> Answer:
    state: State = adapter.init(backbone)

    def answer(x: Tensor) -> Tensor:
        nonlocal state
        step = adapter.adapt(backbone, state, x)
        state = step.state
        return step.output.logits

    return answer


def _one_state(backbone: Backbone, lr: float) -> Answer:
    adapter = adapters.create("tent", lr=lr)
    state: State = adapter.init(backbone)
    waiting: list[Tensor] = []

    def answer(x: Tensor) -> Tensor:
        nonlocal state
        logits = adapter.predict(backbone, state, x).logits
        waiting.extend(x)
        if len(waiting) >= WINDOW:
            state = adapter.adapt(backbone, state, torch.stack(waiting[:WINDOW])).state
            del waiting[:WINDOW]
        return logits

    return answer


def _run(answer: Answer, stretches: Sequence[Stretch], pool: Pool, rows: int) -> Wrong:
    """Show a stream in requests of so many images, which may hold two kinds; returns what was wrong, by stretch."""
    x = torch.from_numpy(np.concatenate([pool.images(stretch) for stretch in stretches]))
    labels = np.concatenate([pool.labels[stretch.rows] for stretch in stretches])
    with torch.no_grad():
        predicted = torch.cat([answer(part.float() / 255).argmax(1) for part in x.split(rows)]).numpy()
    wrong, parts = predicted != labels, []
    for stretch in stretches:
        parts.append(wrong[: len(stretch.rows)])
        wrong = wrong[len(stretch.rows) :]
    return parts


def _table(found: dict[str, list[Line]]) -> Iterator[str]:
    columns = list(dict.fromkeys(column for lines in found.values() for column in lines[0]))
    yield "| | " + " | ".join(columns) + " |"
    yield "| --- |" + " --- |" * len(columns)
    for name, seeds in found.items():
        cells = [[line[column] for line in seeds] if column in seeds[0] else [] for column in columns]
        yield f"| {name} | " + " | ".join(_cell(values) for values in cells) + " |"


def _cell(values: list[float]) -> str:
    if not values or math.isnan(values[0]):
        return ""
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    sys.exit(main())
