"""What answers fastest: torch, torch with channels last, or ONNX Runtime; and whether they say the same.

    python -m load_tests.backend --models glyphs resnet18 --batches 1 8 32 --threads 1 2
    python -m load_tests.backend --runs --batches 32 64
    python -m load_tests.backend --agree

Ratios are of pairs, each right after torch's forward with the same tensors replaced or none, in turn. With `--runs`
they are of ONNX Runtime with itself, given a few images at a time, as a server does, and all at once.
"""

import argparse
import copy
import gc
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from load_tests.cases import Network, network
from load_tests.clock import Run, alternate, clock_for, quantile, spread
from load_tests.machine import describe, load_average
from tta_server.adapters import create
from tta_server.models import EMPTY, Output
from tta_server.models.backbone import replaceable
from tta_server.models.onnx_backbone import MOST_APART, distance, in_runs, rows_of_run
from tta_server.models.onnx_export import (
    FEATURES,
    IMAGES,
    LOGITS,
    export,
    source_only,
)
from tta_server.models.onnx_graphs import serialised
from tta_server.models.onnx_session import OnnxSession

_MODELS = (
    "glyphs",
    "resnet18",
    "resnet50",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
)
_WAYS = "torch, channels last", "ONNX, source", "ONNX, with a stream's norms"
_RUNS = "all at once, ms", "a few at a time, over that"
_MADE = LOGITS, FEATURES


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a Markdown report; returns 1 if a network answers otherwise on ONNX Runtime."""
    options = _parser().parse_args(arguments)
    print(f"Load at the start: {load_average():.1f}. {_machine()}\n")
    far = 0
    for name in options.models:
        net = network(name, torch.device("cpu"), options.batches)
        model = export(net.backbone)
        sessions = _sessions(model)
        source, learnt = _agree(net, sessions)
        far += not max(source, learnt) <= MOST_APART
        print(f"{name}: apart {source:.1e} as the source, {learnt:.1e} after three steps of TENT", flush=True)
        if not options.agree:
            heads, row = (_RUNS, _row_of_runs) if options.runs else (("torch, ms", *_WAYS), _row)
            print("\n| threads | batch |", " | ".join(heads), "|\n|---|---|" + "---|" * len(heads))
            for threads in options.threads:
                torch.set_num_threads(threads)
                sessions = _sessions(model)
                for batch in net.batches:
                    print(f"| {threads} | {batch} |", row(net, sessions, batch, options.seconds), flush=True)
            print()
        del net, model, sessions
        gc.collect()
    return int(far > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.backend", description="Measure what answers fastest.")
    parser.add_argument("--models", nargs="+", default=_MODELS, help="glyphs, or torchvision classifiers")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=5, help="for each number, at least 3 pairs (default: 5)")
    parser.add_argument("--runs", action="store_true", help="compare runs of a few images with one of all")
    parser.add_argument("--agree", action="store_true", help="only compare what they say")
    return parser


def _machine() -> str:
    return ", ".join(f"{name}: {said}" for name, said in describe(torch.device("cpu")).items())


def _sessions(model: object) -> tuple[OnnxSession, OnnxSession]:
    device = torch.device("cpu")
    return OnnxSession(serialised(source_only(model)), device), OnnxSession(serialised(model), device)


def _agree(net: Network, sessions: tuple[OnnxSession, OnnxSession]) -> tuple[float, float]:
    """Return how far answers are apart: the source's, and those of a stream that has learnt."""
    backbone, adapter = net.backbone, create("tent", lr=1e-3)
    x = torch.rand(4, *backbone.spec.input_shape, generator=torch.Generator().manual_seed(1))
    state = adapter.init(backbone)
    for _ in range(3):
        state = adapter.adapt(backbone, state, x).state
    learnt = {name.partition("/")[2]: tensor for name, tensor in state.items() if name.startswith(("theta/", "stats/"))}
    found = Output(*sessions[0].run({IMAGES: x}, _MADE)), Output(*sessions[1].run({IMAGES: x, **learnt}, _MADE))
    return distance(found[0], backbone.forward(x)), distance(found[1], adapter.predict(backbone, state, x))


def _row(net: Network, sessions: tuple[OnnxSession, OnnxSession], batch: int, budget_s: float) -> str:
    """Return a row of the table."""
    backbone = net.backbone
    x = torch.rand(batch, *backbone.spec.input_shape)
    norms = {name: tensor.clone() for name, tensor in replaceable(backbone).items()}
    plain = backbone.forward
    nhwc = copy.deepcopy(net.plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ways: list[tuple[Run, Run]] = [
        (lambda: _plain(net.plain, x), lambda: _plain(nhwc, x.to(memory_format=torch.channels_last))),
        (lambda: plain(x, EMPTY), lambda: sessions[0].run({IMAGES: x}, _MADE)),
        (lambda: plain(x, norms), lambda: sessions[1].run({IMAGES: x, **norms}, _MADE)),
    ]
    print(f"{net.name}, batch {batch}", file=sys.stderr)
    pairs = [alternate(one, other, clock_for(torch.device("cpu")), 40, budget_s) for one, other in ways]
    middle = 1000 * quantile(pairs[1].plain_s, 0.5)
    return " | ".join([f"{middle:.1f}", *(spread(each.ratios) for each in pairs)]) + " |"


def _row_of_runs(net: Network, sessions: tuple[OnnxSession, OnnxSession], batch: int, budget_s: float) -> str:
    x, session = torch.rand(batch, *net.backbone.spec.input_shape), sessions[0]
    rows = rows_of_run(net.backbone.spec.input_shape, session.threads)
    once, few = (lambda: session.run({IMAGES: x}, _MADE)), (lambda: in_runs(session, x, _MADE, rows))
    found = alternate(once, few, clock_for(torch.device("cpu")), 40, budget_s)
    return f"{1000 * quantile(found.plain_s, 0.5):.1f} | {spread(found.ratios)} |"


def _plain(module: torch.nn.Module, x: Tensor) -> object:
    with torch.inference_mode():
        return module(x)


if __name__ == "__main__":
    sys.exit(main())
