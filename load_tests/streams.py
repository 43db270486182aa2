"""What stacking streams gains: the same steps one stream after another, stacked, and as one stream with all the rows.

    python -m load_tests.streams --models glyphs resnet50 --streams 32 --rows 4

The last, "one model", is what stacking would come to if streams cost nothing: the limit for one forward of all rows.
Needs no more than torch, torchvision, numpy and safetensors beside this project's `models` and `adapters`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from load_tests.cases import Case, cases, network
from load_tests.clock import Clock, Run, clock_for, spread
from load_tests.machine import load_average
from load_tests.report import head, publish, ran_on, row
from tta_server.adapters import Adapter, State
from tta_server.adapters.stack import adapt_stacked, predict_stacked
from tta_server.models import TorchBackbone

TOLERANCE = 1e-5
_FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Streams:
    """Several streams of one adapter, each in a state of its own.

    Attributes:
        label: What to call the adapter.
        adapter: The adapter.
        backbone: The network.
        states: One for each stream.
        xs: Their images (S, N, C, H, W).
    """

    label: str
    adapter: Adapter
    backbone: TorchBackbone
    states: list[State]
    xs: Tensor

    def verbs(self) -> dict[str, dict[str, Run]]:
        """Return what is timed, by verb and side; nothing that is called changes what the next call does."""
        adapter, backbone, states, xs = self.adapter, self.backbone, self.states, self.xs
        everything = xs.flatten(0, 1)
        predict: dict[str, Run] = {
            "loop": lambda: [adapter.predict(backbone, state, x) for state, x in zip(states, xs, strict=True)],
            "stacked": lambda: predict_stacked(adapter, backbone, states, xs),
            "one model": lambda: adapter.predict(backbone, states[0], everything),
        }
        adapt: dict[str, Run] = {
            "loop": lambda: [adapter.adapt(backbone, state, x) for state, x in zip(states, xs, strict=True)],
            "stacked": lambda: adapt_stacked(adapter, backbone, states, xs),
            "one model": lambda: adapter.adapt(backbone, states[0], everything),
        }
        return {"predict": predict, "adapt": adapt}

    def differences(self) -> dict[str, float]:
        """Return how far stacked results lie from those of the loop, by verb; see `difference`."""
        adapter, backbone = self.adapter, self.backbone
        # TF32 rounds what is computed in other shapes differently: equality is asked of float32.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            answers = predict_stacked(adapter, backbone, self.states, self.xs).logits
            steps = adapt_stacked(adapter, backbone, self.states, self.xs)
            predict = adapt = 0.0
            for i, (state, x) in enumerate(zip(self.states, self.xs, strict=True)):
                alone = adapter.adapt(backbone, state, x)
                predict = max(predict, difference(answers[i], adapter.predict(backbone, state, x).logits))
                adapt = max(adapt, difference(steps[i].output.logits, alone.output.logits))
                adapt = max(adapt, *(difference(steps[i].state[name], alone.state[name]) for name in alone.state))
        return {"predict": predict, "adapt": adapt}


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest absolute difference, relative to the larger of 1 and the largest number compared with."""
    return float((one.double() - other.double()).abs().max() / other.double().abs().max().clamp(min=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked.

    Returns:
        The exit status: 1 if a stacked result is further than `TOLERANCE` from that of the loop.
    """
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # the clock listens to the current device
    before = load_average()
    lines, equal = [], True
    for name in options.models:
        backbone = _backbone(name, device, options.size)
        lines += _title(backbone, options.streams, options.rows)
        for streams in _streams(backbone, options.adapters, options.streams, options.rows):
            print(f"{name}: {streams.label}", file=sys.stderr)
            found = streams.differences()
            equal &= max(found.values()) <= TOLERANCE
            for verb, sides in streams.verbs().items():
                budget_s = options.seconds / len(options.models) / len(options.adapters) / 2
                times = alternate_sides(sides, clock_for(device), options.rounds, budget_s)
                lines.append(row(f"{streams.label}: {verb}", *_cells(times, found[verb])))
        lines.append("")
    publish([*ran_on(before, device), "", *lines], options.out)
    return 0 if equal else 1


def alternate_sides(sides: dict[str, Run], clock: Clock, rounds: int, budget_s: float) -> dict[str, list[float]]:
    """Time all sides in turn, another one first every round, and return their times in seconds.

    Args:
        sides: What to time, by name.
        clock: How to time a call.
        rounds: Most rounds, >= 1.
        budget_s: No round is started after this long once there are three.
    """
    names = list(sides)
    times: dict[str, list[float]] = {name: [] for name in names}
    for run in sides.values():
        clock(run)
    started_s = time.monotonic()
    for count in range(rounds):
        if count >= _FEWEST_ROUNDS and time.monotonic() - started_s > budget_s:
            break
        turn = count % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(clock(sides[name]))
    return times


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.streams", description="Measure what stacking gains.")
    models = ["glyphs", "resnet18", "resnet50"]
    parser.add_argument("--models", nargs="+", default=models, help="glyphs, or torchvision classifiers")
    parser.add_argument("--size", type=int, default=64, help="images of torchvision's, in pixels (default: 64)")
    parser.add_argument("--adapters", nargs="+", default=["tent"], help="names of adapters (default: tent)")
    parser.add_argument("--streams", type=int, default=32, help="streams that are stacked (default: 32)")
    parser.add_argument("--rows", type=int, default=4, help="images of each stream (default: 4)")
    parser.add_argument("--rounds", type=int, default=25, help="most rounds for one line (default: 25)")
    parser.add_argument("--seconds", type=float, default=180, help="shared by all lines; each takes 3 rounds at least")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:1 (default: the GPU if there is one)")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads on the CPU (default: its own choice)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _backbone(name: str, device: torch.device, size: int) -> TorchBackbone:
    net = network(name, device)
    if name == "glyphs":
        return net.backbone
    _settle(net.plain, size, device)
    return TorchBackbone(net.plain, (3, size, size), name=name, device=device)


@torch.no_grad()
def _settle(module: nn.Module, size: int, device: torch.device) -> None:
    """Give a network with random weights what training gives: statistics that fit, and blocks that add a little.

    Else fifty layers blow rounding errors up, and one cannot tell a wrong result from an ill-conditioned network.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for block in module.modules():
        last = getattr(block, "bn3", None) or getattr(block, "bn2", None)
        if isinstance(last, nn.BatchNorm2d) and last.weight is not None:
            last.weight.fill_(0.1)
    for norm in norms:
        norm.momentum = None  # a plain mean
        norm.reset_running_stats()
    module.train()
    module(torch.rand(32, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device))
    module.eval()


def _streams(backbone: TorchBackbone, names: Sequence[str], count: int, rows: int) -> list[Streams]:
    """Return the streams to measure of each adapter named, answering from moving statistics where it can."""
    fitting, _ = cases(backbone)
    wanted = {label for name in names for label in (name, f"{name}, ema")}
    chosen = [_diverged(case, backbone, count, rows) for case in fitting if case.label in wanted]
    if len(chosen) < len(names):
        raise ValueError(f"not every one of {', '.join(names)} is an adapter that '{backbone.spec.name}' can serve")
    return chosen


def _diverged(case: Case, backbone: TorchBackbone, count: int, rows: int) -> Streams:
    generator = torch.Generator().manual_seed(0)
    shape = (count, rows, *backbone.spec.input_shape)
    first, xs = (torch.rand(shape, generator=generator).to(backbone.device) for _ in range(2))
    contrast = torch.linspace(0.2, 1, count, device=backbone.device)
    states = [
        case.adapter.adapt(backbone, case.state, x * share).state for x, share in zip(first, contrast, strict=True)
    ]
    return Streams(case.label, case.adapter, backbone, states, xs)


def _title(backbone: TorchBackbone, streams: int, rows: int) -> list[str]:
    shape = "x".join(map(str, backbone.spec.input_shape))
    return [
        f"**{backbone.spec.name}**, {shape}, {streams} streams of {rows} images: median (10th-90th percentile)",
        "",
        *head(
            "", "loop, ms", "loop / stacked", "loop / one model", "one model / stacked", "stacked is off by", "rounds"
        ),
    ]


def _cells(times: dict[str, list[float]], off_by: float) -> list[str]:
    def ratio(one: str, other: str) -> str:
        return spread([first / second for first, second in zip(times[one], times[other], strict=True)])

    loop_ms = statistics.median(times["loop"]) * 1000
    ratios = [ratio("loop", "stacked"), ratio("loop", "one model"), ratio("one model", "stacked")]
    return [f"{loop_ms:.1f}", *ratios, f"{off_by:.0e}", str(len(times["loop"]))]


if __name__ == "__main__":
    sys.exit(main())
