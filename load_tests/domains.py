"""What a state for each domain gains: the server's own worker at its defaults, the guard on, beside what there is.

    python -m load_tests.domains
    python -m load_tests.domains --stream turns --requests 16 1
    python -m load_tests.domains --config model.yaml --source calibrate/ --images evaluate/

It takes a network of yours too; one without a bundle is calibrated on its source images first. Each seed draws other
images.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from load_tests.courses import CLEAN, CLEAN_AFTER, KINDS, ROUNDS, Pool, Stretch, by_name, streams
from load_tests.machine import load_average
from load_tests.report import publish, ran_on
from tta_server import adapters
from tta_server.adapters import State
from tta_server.app import load_model
from tta_server.calibrate.bundle import calibrate
from tta_server.calibrate.source_data import SourceData, read
from tta_server.evaluate.corruptions import CORRUPTIONS
from tta_server.evaluate.session import Session
from tta_server.models import Backbone, Model, Reference, glyphs
from tta_server.models.reference import load_reference
from tta_server.settings import GuardSettings
from tta_server.settings_file import load_settings

FIRST = 64
WINDOW = 64
_DOMAINS = 16  # the default
LONG = 20 * WINDOW  # what is promised is promised of 20 windows in a row

Answer = Callable[[Tensor], Tensor]
Line = dict[str, float]
Wrong = list[np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns the exit status."""
    options = _parser().parse_args(arguments)
    before = load_average()
    with TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle.safetensors"
        backbone = _model(options).backbone
        _bundle(options).save(bundle)
        found: dict[str, list[Line]] = {}
        with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
            names = streams(options.stream, np.zeros(options.count, np.int64), options.count, 0)
            tasks = [(options, bundle, seed, name) for seed in range(options.seeds) for name in names]
            for (_, _, _, name), lines in zip(tasks, pool.map(_measure, *zip(*tasks, strict=True)), strict=True):
                for side, line in lines.items():
                    found.setdefault(f"{name}: {side}" if len(names) > 1 else side, []).append(line)
    publish([*ran_on(before, backbone.device), "", *_table(found)], options.out)
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
    parser.add_argument("--device", default="cpu", help="where the network runs (default: %(default)s)")
    parser.add_argument("--adapter", default="tent", help="method (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="streams measured at once (default: %(default)s)")
    parser.add_argument("--lr", type=float, help="its learning rate (default: its own)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _model(options: argparse.Namespace) -> Model:
    return load_model(load_settings(options.config, {"model": {"device": options.device}}).model)


def _bundle(options: argparse.Namespace) -> Reference:
    model = _model(options)
    if model.reference:
        return model.reference
    source = _read(options.source, model, 1000)
    return calibrate(model.backbone, source.images, source.labels)


def _read(folder: str, model: Model, limit: int) -> SourceData:
    return read(folder, model, limit, 0, lambda _what, _done, _total: None)


def _measure(options: argparse.Namespace, bundle: Path, seed: int, name: str) -> dict[str, Line]:
    """Answer one stream by each side, and say what became of it; runs in a process of its own."""
    torch.set_num_threads(1)
    model = _model(options)
    model = replace(model, reference=load_reference(bundle, model.backbone))
    shown = SourceData(*glyphs.images("test")) if options.images == "glyphs" else _read(options.images, model, 4000)
    rows = np.random.default_rng(seed).permutation(len(shown.labels))[: max(640, options.count)]
    pool = Pool(shown.images[rows], shown.labels[rows], seed)
    return dict(_lines(model, streams(options.stream, pool.labels, options.count, seed)[name], pool, options))


def _lines(
    model: Model, stretches: list[Stretch], pool: Pool, options: argparse.Namespace
) -> Iterator[tuple[str, Line]]:
    describes = {"continual": _continual, "recurring": _recurring}.get(options.stream, _any)
    backbone = model.backbone
    frozen = _run(
        lambda images: backbone.forward(_on(images, backbone)).logits.argmax(1).cpu(), stretches, pool, WINDOW
    )
    yield "frozen", describes(stretches, frozen, frozen)
    adapter = adapters.create(options.adapter)
    if options.lr is not None:
        adapter = adapters.create(options.adapter, lr=options.lr)
    if options.stream == "continual":
        one = _session(model, adapter, 1)
        yield "one state (`domains.max: 1`)", describes(stretches, _run(_asks(one), stretches, pool, 16), frozen)
        wrong = _run(_learning(adapters.create("tent", stats="batch"), backbone), stretches, pool, WINDOW)
        yield "TENT, each batch of 64 by its own statistics", describes(stretches, wrong, frozen)
    for size in options.requests:
        served = _session(model, adapter, _DOMAINS)
        line = describes(stretches, _run(_asks(served), stretches, pool, size), frozen)
        yield f"the default, requests of {size}", line | {"domains": float(len(served.domains))}


def _session(model: Model, adapter: adapters.Adapter, domains: int) -> Session:
    return Session(adapter, model.backbone, model.reference, WINDOW, False, GuardSettings(), domains)


def _asks(session: Session) -> Answer:
    return lambda images: torch.from_numpy(session.answer(images.numpy()))


def _on(images: Tensor, backbone: Backbone) -> Tensor:
    return images.to(backbone.device).float() / 255


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
    shown = {"round 1": 0, "round 2": 1, f"round {ROUNDS}": -1}
    means = {name: 100 * float(np.concatenate(rounds[number]).mean()) for name, number in shown.items()}
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

    def answer(images: Tensor) -> Tensor:
        nonlocal state
        step = adapter.adapt(backbone, state, _on(images, backbone))
        state = step.state
        return step.output.logits.argmax(1).cpu()

    return answer


def _run(answer: Answer, stretches: Sequence[Stretch], pool: Pool, rows: int) -> Wrong:
    """Show a stream in requests of so many images, which may hold two kinds; returns what was wrong, by stretch."""
    x = torch.from_numpy(np.concatenate([pool.images(stretch) for stretch in stretches]))
    labels = np.concatenate([pool.labels[stretch.rows] for stretch in stretches])
    with torch.no_grad():
        predicted = torch.cat([answer(part) for part in x.split(rows)]).numpy()
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
