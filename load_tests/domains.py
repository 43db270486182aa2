"""What a state for each domain would gain: a prototype of routing by style, offline, beside what there is.

    python -m load_tests.domains
    python -m load_tests.domains --config model.yaml --source calibrate/ --images evaluate/

The server does not route yet; this says what it is worth, on a network of yours too. Every stream shows clean images,
each corruption in turn, and clean images again. Nothing is judged by a guard. Each seed draws other images.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from load_tests.machine import describe, load_average
from load_tests.routed import Routed
from tta_server import adapters
from tta_server.adapters import State
from tta_server.app import load_model
from tta_server.calibrate.labelled import Labelled, read
from tta_server.calibrate.style import style
from tta_server.domains.space import StyleSpace
from tta_server.evaluate.corruptions import CORRUPTIONS, corrupt
from tta_server.models import Backbone, Model, Reference, glyphs
from tta_server.settings_file import load_settings

CLEAN_BEFORE, CLEAN_AFTER = "clean before", "clean after"
FIRST = 64
WINDOW = 64

Answer = Callable[[Tensor], Tensor]


class Phase(NamedTuple):
    """One domain of a stream.

    Attributes:
        name: What it shows.
        images: uint8 (N, C, H, W).
        labels: (N,).
    """

    name: str
    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Errors:
    """Errors of one stream in %, by phase: of all images, and of the first ones."""

    whole: dict[str, float]
    first: dict[str, float]

    def line(self, frozen: "Errors") -> dict[str, float]:
        """Return the numbers of a row of the table."""
        return {
            "mean": statistics.mean(self.whole[name] for name in CORRUPTIONS),
            "first 64": statistics.mean(self.first[name] for name in CORRUPTIONS),
            "worst domain over frozen": max(self.whole[name] - frozen.whole[name] for name in CORRUPTIONS),
            "worst first 64 over frozen": max(self.first[name] - frozen.first[name] for name in CORRUPTIONS),
            CLEAN_BEFORE: self.whole[CLEAN_BEFORE],
            CLEAN_AFTER: self.whole[CLEAN_AFTER],
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model(load_settings(options.config, {} if options.config else {"model": {"device": "cpu"}}).model)
    before = load_average()
    found: dict[str, list[dict[str, float]]] = {}
    opened = []
    for seed in range(options.seeds):
        source, phases = _data(model, options, seed)
        space = _space(model.backbone, source, seed)
        frozen = _run(lambda x: model.backbone.forward(x).logits, phases, WINDOW)
        for name, answer, rows in _sides(model.backbone, space, options.lr, opened):
            found.setdefault(name, []).append(_run(answer, phases, rows).line(frozen))
    facts = describe(model.backbone.device) | {"load average": f"{before:.1f} before, {load_average():.1f} after"}
    lines = [f"- {name}: {fact}" for name, fact in facts.items()] + ["", *_table(found)]
    lines += ["", f"Domains that were opened, stream by stream: {', '.join(map(str, opened))}."]
    report = "\n".join(lines)
    print(report)
    if options.out:
        options.out.write_text(report + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.domains", description=__doc__)
    parser.add_argument("--config", type=Path, help="configuration of the model (default: the embedded one)")
    parser.add_argument("--source", default="glyphs", help="its source images, a folder a class")
    parser.add_argument("--images", default="glyphs", help="the images that are shown, a folder a class")
    parser.add_argument("--count", type=int, default=256, help="images of each domain (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="streams, each of other images (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2.5e-4, help="learning rate of TENT (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _data(model: Model, options: argparse.Namespace, seed: int) -> tuple[Labelled, list[Phase]]:
    def told(_what: str, _done: int, _total: int) -> None:
        pass

    source = read(options.source, model, 1000, 0, told)
    shown = (
        Labelled(*glyphs.images("test")) if options.images == "glyphs" else read(options.images, model, 4000, 0, told)
    )
    rng = np.random.default_rng(seed)
    phases = []
    for name in (CLEAN_BEFORE, *CORRUPTIONS, CLEAN_AFTER):
        rows = rng.permutation(len(shown.labels))[: options.count]
        images = shown.images[rows]
        phases.append(
            Phase(name, corrupt(images, name, 5, seed) if name in CORRUPTIONS else images, shown.labels[rows])
        )
    return source, phases


def _space(backbone: Backbone, source: Labelled, seed: int) -> StyleSpace:
    tensors, about = style(backbone, source.images, np.random.default_rng(seed), WINDOW, lambda *_: None)
    return StyleSpace.of(Reference(backbone.spec.digest, tensors, about))


def _sides(backbone: Backbone, space: StyleSpace, lr: float, opened: list[int]) -> Iterator[tuple[str, Answer, int]]:
    yield "frozen", lambda x: backbone.forward(x).logits, 16
    yield "one state (`stats: ema`)", _one_state(backbone, lr), 16
    batch = adapters.create("tent", lr=lr, stats="batch")
    yield "each batch of 64 by its own statistics (`stats: batch`)", _learning(batch, backbone), WINDOW
    for rows in (16, 1):
        routed = Routed(backbone, space, lr, WINDOW)
        yield f"routed by style, requests of {rows}", routed.answer, rows
        opened.append(routed.routing.opened)


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


def _run(answer: Answer, phases: Sequence[Phase], rows: int) -> Errors:
    whole, first = {}, {}
    for phase in phases:
        x = torch.from_numpy(phase.images).float() / 255
        with torch.no_grad():
            predicted = torch.cat([answer(part).argmax(1) for part in x.split(rows)]).numpy()
        wrong = predicted != phase.labels
        whole[phase.name], first[phase.name] = 100 * float(wrong.mean()), 100 * float(wrong[:FIRST].mean())
    return Errors(whole, first)


def _table(found: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    columns = list(next(iter(found.values()))[0])
    yield "| | " + " | ".join(columns) + " |"
    yield "| --- |" + " --- |" * len(columns)
    for name, seeds in found.items():
        cells = [[line[column] for line in seeds] for column in columns]
        yield (
            f"| {name} | "
            + " | ".join(f"{statistics.mean(c):.1f} ({min(c):.1f} to {max(c):.1f})" for c in cells)
            + " |"
        )


if __name__ == "__main__":
    sys.exit(main())
