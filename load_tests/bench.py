"""What adapting costs: `predict` and `adapt` of every adapter against the plain forward of the same module.

    python -m load_tests.bench --models glyphs --batches 1 16

Needs no more than torch, torchvision and numpy beside this project's `models` and `adapters`.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from load_tests.cases import NETWORKS, Case, Network, cases, network
from load_tests.clock import Clock, Pairs, Run, alternate, clock_for, spread
from load_tests.machine import load_average
from load_tests.report import head, publish, ran_on, row
from tta_server.models.backbone import size_bytes

_VERBS = ("predict", "adapt")


@dataclass
class Results:
    """What was measured of one network.

    Attributes:
        network: The network.
        cases: The adapters, in order.
        pairs: By label of the adapter, verb and batch size; refused ones are missing.
        left_out: Why other adapters cannot serve the network.
        refused: By reason and batch size: labels of the adapters that refuse such a batch.
    """

    network: Network
    cases: list[Case]
    pairs: dict[tuple[str, str, int], Pairs] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    refused: dict[tuple[str, int], list[str]] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # the clock listens to the current device
    before = load_average()
    results = [_prepare(network(name, device, options.batches)) for name in options.models]
    numbers = sum(len(_VERBS) * len(each.cases) * len(each.network.batches) for each in results)
    for each in results:
        _measure(each, options.rounds, options.seconds / numbers)
    tables = [*(line for each in results for line in _table(each)), *_memory(results)]
    publish([*ran_on(before, device), "", *tables], options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.bench", description="Measure what adapting costs.")
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), help="glyphs, or torchvision classifiers")
    parser.add_argument("--batches", nargs="+", type=int, default=[], help="batch sizes (default: by model and device)")
    parser.add_argument("--rounds", type=int, default=40, help="most pairs for one number (default: %(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=90,
        help="shared by all numbers; each takes 3 pairs, or 1 if slow (default: 90)",
    )
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:1 (default: the GPU if there is one)")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads on the CPU (default: its own choice)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _prepare(net: Network) -> Results:
    fitting, left_out = cases(net.backbone)
    return Results(net, fitting, left_out=left_out)


def _measure(results: Results, rounds: int, budget_s: float) -> None:
    net = results.network
    clock = clock_for(net.backbone.device)
    for batch in net.batches:
        generator = torch.Generator().manual_seed(batch)
        x = torch.rand(batch, *net.backbone.spec.input_shape, generator=generator).to(net.backbone.device)
        for case in results.cases:
            print(f"{net.name}, batch {batch}: {case.label}", file=sys.stderr)
            _measure_case(results, case, x, clock, rounds, budget_s)


def _measure_case(results: Results, case: Case, x: Tensor, clock: Clock, rounds: int, budget_s: float) -> None:
    net, adapter, state = results.network, case.adapter, case.state

    def plain() -> object:
        with torch.inference_mode():
            return net.plain(x)

    # Every round starts from the same state, so that all do the same work.
    verbs: dict[str, Run] = {
        "predict": lambda: adapter.predict(net.backbone, state, x),
        "adapt": lambda: adapter.adapt(net.backbone, state, x),
    }
    warm_up = 3 if net.backbone.device.type == "cuda" else 1
    for verb, run in verbs.items():
        try:
            pairs = alternate(plain, run, clock, rounds, budget_s, warm_up)
        except ValueError as error:  # how adapters refuse a batch
            labels = results.refused.setdefault((str(error), len(x)), [])
            labels += [] if case.label in labels else [case.label]
        else:
            results.pairs[case.label, verb, len(x)] = pairs


def _table(results: Results) -> list[str]:
    net = results.network
    columns = [(verb, batch) for verb in _VERBS for batch in net.batches]
    shape = "x".join(map(str, net.backbone.spec.input_shape))
    lines = [
        f"**{net.name}**, {shape}: time over that of the plain forward, median (10th-90th percentile) of the pairs",
        "",
        *head("adapter", *(f"{verb}, batch {batch}" for verb, batch in columns)),
    ]
    for case in results.cases:
        cells = [results.pairs.get((case.label, verb, batch)) for verb, batch in columns]
        lines.append(row(case.label, *(spread(pairs.ratios) if pairs else "-" for pairs in cells)))
    plain = ", ".join(f"{_plain_ms(results, batch):.2f} ms at batch {batch}" for batch in net.batches)
    rounds = [len(pairs.plain_s) for pairs in results.pairs.values()]
    lines += ["", f"The plain forward takes {plain} (medians); {min(rounds)} to {max(rounds)} pairs a number."]
    lines += [f"Left out: {reason}." for reason in results.left_out]
    for (reason, batch), labels in results.refused.items():
        lines.append(f"Left out at batch {batch}, {' and '.join(f'`{label}`' for label in labels)}: {reason}.")
    return [*lines, ""]


def _plain_ms(results: Results, batch: int) -> float:
    times = [pairs.plain_s for (_, _, size), pairs in results.pairs.items() if size == batch]
    return statistics.median(second for each in times for second in each) * 1000


def _memory(results: Sequence[Results]) -> list[str]:
    labels = list(dict.fromkeys(case.label for each in results for case in each.cases))
    lines = [
        "**State of one stream**, bytes (share of the network's weights)",
        "",
        *head("adapter", *(each.network.name for each in results)),
    ]
    return [*lines, *(row(label, *(_state_bytes(each, label) for each in results)) for label in labels)]


def _state_bytes(results: Results, label: str) -> str:
    backbone = results.network.backbone
    for case in results.cases:
        if case.label == label:
            size = size_bytes(case.state)
            return f"{size:,} ({size / size_bytes(backbone.weights()):.1%})"
    return "-"


if __name__ == "__main__":
    sys.exit(main())
