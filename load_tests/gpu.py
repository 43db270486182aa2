"""What a GPU changes: whether it says what a CPU does, what a step costs there, and where the host waits for it.

    python -m load_tests.gpu --seconds 240 --out gpu.md

Needs no more than `load_tests.bench` does, and ONNX Runtime for one column. A part that fails says so in one line, and
the next begins; the exit status is 1 then. With `--device cpu --network glyphs` it runs anywhere.
"""

import argparse
import contextlib
import copy
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from load_tests import bench, streams
from load_tests.cases import Case, cases, network, without_chance
from load_tests.clock import Run, alternate, clock_for, spread
from load_tests.machine import describe, load_average
from tta_server.models import TorchBackbone
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_export import graphs

_STEPS = 3
_AGREE = 1e-3  # of the logits' scale: other kernels sum in another order
_WARM_UP = 3

Lines = Iterator[str]
Part = Callable[[argparse.Namespace], Lines]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns 1 if a part failed."""
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # the clock listens to the current device
    facts = describe(device) | {"load average": f"{load_average():.1f}"}
    lines, failed = [f"- {name}: {fact}" for name, fact in facts.items()], 0
    print("\n".join(lines), flush=True)
    for name in options.parts:
        started_s, done = time.monotonic(), ["", f"**{name}**", ""]
        try:
            done += PARTS[name](options)
        except Exception as error:
            failed += 1
            done.append(f"{name} failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        lines += done
        print("\n".join(done), flush=True)
        print(f"{name}: {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.gpu", description="Measure what a GPU changes.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which (default: all)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try the script (default: cuda)")
    parser.add_argument("--network", default="resnet50", help="what is timed: glyphs or a torchvision classifier")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64], help="images of a step")
    parser.add_argument(
        "--images", type=int, default=16, help="of the steps that are compared with a CPU's (default: 16)"
    )
    parser.add_argument("--streams", type=int, default=32, help="streams that are stacked (default: 32)")
    parser.add_argument("--seconds", type=float, default=240, help="shared by all timings (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _agreement(options: argparse.Namespace) -> Lines:
    """Compare every adapter with itself on the CPU, and list where a step makes the host wait."""
    cpu, gpu = (network("glyphs", torch.device(name)).backbone for name in ("cpu", options.device))
    steps = f"{_STEPS} steps of {options.images} images"
    yield f"The embedded network, float32 without TF32, after {steps}, no chance in them."
    yield ""
    yield "| adapter | logits apart, of their scale | the host waits in a step |"
    yield "| --- | --- | --- |"
    far = []
    for ours, theirs in zip(cases(cpu, without_chance)[0], cases(gpu, without_chance)[0], strict=True):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True):
            apart = max(map(_apart, _learn(ours, cpu, options.images), _learn(theirs, gpu, options.images)))
        waits = _waits(theirs, gpu)
        yield f"| {ours.label} | {apart:.1e} | {', '.join(waits) or 'nowhere'} |"
        far += [ours.label] if apart > _AGREE else []
    if far:
        raise ValueError(f"more than {_AGREE} apart: {', '.join(far)}")


def _learn(case: Case, backbone: TorchBackbone, images: int) -> list[Tensor]:
    """Return the logits (N, K) of each step of so many images, on the CPU."""
    state, found = case.state, []
    for number in range(_STEPS):
        step = case.adapter.adapt(backbone, state, _images(backbone, images, number))
        state = step.state
        found.append(step.output.logits.cpu())
    return found


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


def _waits(case: Case, backbone: TorchBackbone) -> list[str]:
    """Return the lines of the adapters' room at which a step waits for the device; none can be seen on a CPU."""
    if backbone.device.type != "cuda":
        return []
    x = _images(backbone, 16, 0)
    case.adapter.adapt(backbone, case.state, x)
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # warns that it is a prototype
        try:
            case.adapter.adapt(backbone, case.state, x)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(each.filename).name}:{each.lineno}" for each in seen if "synchroniz" in str(each.message)]
    return list(dict.fromkeys(places))


def _images(backbone: TorchBackbone, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *backbone.spec.input_shape, generator=generator).to(backbone.device)


def _steps(options: argparse.Namespace) -> Lines:
    """Time every adapter's verbs against the plain forward."""
    arguments = ["--models", options.network, "--batches", *map(str, options.batches)]
    yield from _report(bench.main, [*arguments, "--device", options.device, "--seconds", str(options.seconds / 3)])


def _stacked(options: argparse.Namespace) -> Lines:
    """Time streams of 4 images stacked against one after another."""
    models = ["--models", "glyphs", *({options.network} - {"glyphs"}), "--size", "64"]
    arguments = [*models, "--streams", str(options.streams)]
    yield from _report(streams.main, [*arguments, "--device", options.device, "--seconds", str(options.seconds / 3)])


def _report(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> Lines:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        command(arguments)
    yield from (line for line in said.getvalue().splitlines() if not line.startswith("- "))


def _forms(options: argparse.Namespace) -> Lines:
    """Time other ways to run the plain forward against float32, and say how far their logits are from its."""
    net = network(options.network, torch.device(options.device))
    backbone, clock = net.backbone, clock_for(net.backbone.device)
    yield "Time over that of the float32 forward in its usual layout, and logits apart from it, of their scale."
    yield ""
    ways = _ways(net.plain, backbone)
    yield f"| images | float32, ms | {' | '.join(ways)} |"
    yield "| --- | --- |" + " --- |" * len(ways)
    budget_s = options.seconds / 3 / len(ways) / len(options.batches)
    for count in options.batches:
        x = _images(backbone, count, 0)
        usual, plain_s, cells = partial(_plain, net.plain, x), list[float](), []
        for way in ways.values():
            pairs = alternate(usual, partial(way, x), clock, 40, budget_s, _WARM_UP)
            plain_s += pairs.plain_s
            cells.append(f"{spread(pairs.ratios)}, {_apart(usual(), way(x).float()):.0e}")
        yield f"| {count} | {1000 * statistics.median(plain_s):.2f} | {' | '.join(cells)} |"


def _ways(plain: torch.nn.Module, backbone: TorchBackbone) -> dict[str, Callable[[Tensor], Tensor]]:
    last = torch.channels_last
    nhwc = copy.deepcopy(plain).to(memory_format=last)  # type: ignore[call-overload]
    half = copy.deepcopy(plain).to(torch.bfloat16)
    both = copy.deepcopy(nhwc).to(torch.bfloat16)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "channels last": lambda x: _plain(nhwc, x.to(memory_format=last)),
        "bfloat16": lambda x: _plain(half, x.bfloat16()),
        "bfloat16, channels last": lambda x: _plain(both, x.bfloat16().to(memory_format=last)),
    }
    try:
        answers = OnnxBackbone(backbone, graphs(backbone))
    except ValueError as error:
        print(f"ONNX Runtime is left out: {error}", file=sys.stderr)
    else:
        ways["ONNX Runtime"] = lambda x: answers.forward(x).logits
    return ways


def _plain(module: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = module(x)
    return logits


def _memory(options: argparse.Namespace) -> Lines:
    """Say how much device memory a step takes at its most, beside the plain forward."""
    if torch.device(options.device).type != "cuda":
        yield "Only a GPU counts its memory."
        return
    net, count = network(options.network, torch.device(options.device)), max(options.batches)
    x = _images(net.backbone, count, 0)
    steps = {case.label: partial(case.adapter.adapt, net.backbone, case.state, x) for case in cases(net.backbone)[0]}
    yield f"Most memory of a call with {count} images beyond what was held before it, MiB: the plain forward"
    yield f"{_peak(partial(_plain, net.plain, x)):.0f}, a step of " + ", ".join(
        f"{label} {_peak(step):.0f}" for label, step in steps.items()
    )


def _peak(run: Run) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    del kept
    return (torch.cuda.max_memory_allocated() - before) / 2**20


PARTS: dict[str, Part] = {
    "as on a CPU": _agreement,
    "steps": _steps,
    "streams": _stacked,
    "forms of the forward": _forms,
    "memory": _memory,
}
"""What is measured, in order."""


if __name__ == "__main__":
    sys.exit(main())
