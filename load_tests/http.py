"""What this server costs beside others that serve the same network: requests/s, waiting, CPU and memory.

    python -m load_tests.http --peers-python ~/peers/bin/python
    python -m load_tests.http --networks .tools/networks/lite0    # made by load_tests.networks, and calibrated

All servers of one network take turns under the same client, each round in another order, and are stopped meanwhile,
for some are busy while nobody asks; only ratios within a round say much on a shared machine. Each round starts them
anew: by what its allocations happen to cost, none or a hundred page faults a request, the bare application is a third
faster in some processes than in others. LitServe and mosec are left out unless `--peers-python` has them.
"""

import argparse
import base64
import io
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import orjson
import torch
import yaml
from PIL import Image

from load_tests.clock import quantile, spread
from load_tests.machine import load_average
from load_tests.peers.classifier import Classifier, described
from load_tests.report import publish, ran_on, row
from load_tests.saturate import Reading, saturate
from tta_server.evaluate.corruptions import corrupt
from tta_server.models import glyphs

_START_WITHIN_S = 120.0
_IMAGES = 512  # more than a stream remembers, so that none is refused as a duplicate
_PHOTOGRAPH = 128  # pixels a side
_PEERS = {"bare": "/", "litserve": "/predict", "mosec": "/inference"}
_OURS: dict[str, tuple[str, dict[str, str]]] = {  # option: what the table calls it, and its settings of `model`
    "default": ("ours", {}),
    "torch": ("ours on torch", {"runtime": "torch"}),
    "auto": ("ours on torch in the faster memory format", {"runtime": "torch", "memory_format": "auto"}),
}
_ASKED = {  # label: what requests to ours say
    "off": (b"X-Stream-Id: bench-off\r\n", False),
    "at home": (b"X-Stream-Id: bench-home\r\n", False),
    "learning": (b"X-Stream-Id: bench-away\r\n", True),
}
_COLUMNS = (
    *("server", "requests/s over the bare app's", "requests/s", "p50 ms", "p99 ms", "p99/p50"),
    *("CPU ms a request", "idle wait over the model's, ms", "memory MiB"),
)


@dataclass(frozen=True)
class Side:
    """One way of asking one server.

    Attributes:
        name: What the table calls it.
        process: Leads the server's processes.
        port: Where it listens.
        requests: What it is sent, in turn.
    """

    name: str
    process: "subprocess.Popen[bytes]"
    port: int
    requests: tuple[bytes, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    before = load_average()
    lines = []
    for network in options.networks:
        lines += _measured(network, options)
    publish([*ran_on(before), *lines], options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.http", description="Compare servers of one network.")
    parser.add_argument("--networks", nargs="+", default=["null", "glyphs"], help="null, glyphs, or folders of others")
    parser.add_argument(
        "--ours", nargs="+", default=["default"], choices=_OURS, help="how it runs (default: as it comes)"
    )
    parser.add_argument("--clients", type=int, default=16, help="requests under way (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn (default: %(default)s)")
    parser.add_argument("--peers-python", default="", help="a Python with LitServe, mosec and what this project needs")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _start(stack: ExitStack, network: str, ways: Sequence[str], peers_python: str) -> list[Side]:
    """Start the servers of a network; they stop with `stack`."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    files, spoilt = _files(network, False), _files(network, True)
    sides = []
    for name, path in _PEERS.items():
        python = sys.executable if name == "bare" else peers_python
        if python:
            port = _free_port()
            command = [python, "-m", f"load_tests.peers.{name}", network, str(port)]
            asked = [_as_json(file) for file in files] if name == "litserve" else files
            requests = tuple(_request(path, file) for file in asked)
            sides.append(Side(name, stack.enter_context(_running(command, folder / name)), port, requests))
    for way in ways:
        (ours, model), port = _OURS[way], _free_port()
        config = folder / f"{way}.yaml"
        config.write_text(yaml.safe_dump(_config(network, model)))
        command = [sys.executable, "-m", "tta_server", "serve", "--config", str(config), "--port", str(port)]
        process = stack.enter_context(_running(command, folder / ours))
        for asked in _ASKED if network != "null" else ["off"]:
            header, away = _ASKED[asked]
            requests = tuple(_request("/predict?top_k=1", file, header) for file in (spoilt if away else files))
            sides.append(Side(f"{ours}, {asked}", process, port, requests))
    for side in sides:
        _wait(side, folder)
    for side in sides:
        os.killpg(side.process.pid, signal.SIGSTOP)
    return sides


def _config(network: str, model: dict[str, str]) -> dict[str, object]:
    config = {"engine": {"threads": 1}, "streams": {"named": {"bench-off": {"mode": "off"}}}}
    if network != "null":
        own = {} if network == "glyphs" else described(network)
        return config | {"model": own | model}
    preprocess = {"size": [*glyphs.INPUT_SHAPE[1:]], "mean": [*glyphs.MEAN], "std": [*glyphs.STD]}
    null = {"architecture": "load_tests.peers.classifier:Null", "preprocess": preprocess}
    return config | {"model": null | model, "adapter": {"name": "source"}}


def _measured(network: str, options: argparse.Namespace) -> list[str]:
    """Return the table of one network."""
    classifier, found = Classifier(network), defaultdict[str, list[Reading]](list)
    alone_s, waits_s = [], defaultdict[str, list[float]](list)
    for count in range(options.rounds):
        print(f"{network}, round {count + 1} of {options.rounds} (load {load_average():.1f})", file=sys.stderr)
        with ExitStack() as stack:
            sides = _start(stack, network, options.ours, options.peers_python)
            for side in sides:
                with _awake(side):
                    saturate(side.port, side.requests, options.clients, options.seconds, side.process.pid)  # warms up
            alone_s.append(_alone_s(classifier, _files(network, False), options.seconds / 4))
            for place in range(len(sides)):
                side = sides[(place + count) % len(sides)]
                busy, wait_s = _asked(side, options)
                found[side.name].append(busy)
                waits_s[side.name].append(wait_s)
    rows = [_row(name, own, found["bare"], waits_s[name], alone_s) for name, own in found.items()]
    head = [row(*_COLUMNS), f"|{'---|' * len(_COLUMNS)}"]
    return ["", f"**{Path(network).name}**, {options.clients} clients, {options.rounds} rounds of {options.seconds:g} "
            f"s; the model alone takes {1000 * statistics.median(alone_s):.2f} ms an image, decoding included.",
            "", *head, *rows]  # fmt: skip


def _asked(side: Side, options: argparse.Namespace) -> tuple[Reading, float]:
    """Ask a server by many clients, then by one; returns the first, and how long one waits for an answer."""
    asked = side.port, side.requests
    with _awake(side):
        busy = saturate(*asked, options.clients, options.seconds, side.process.pid)
        time.sleep(0.3)  # what is left to learn is learnt
        idle = saturate(*asked, 1, options.seconds / 4, side.process.pid)
    return busy, statistics.median(idle.latencies_s)


@contextmanager
def _awake(side: Side) -> Iterator[None]:
    """Let a server run while the block does."""
    os.killpg(side.process.pid, signal.SIGCONT)
    try:
        yield
    finally:
        os.killpg(side.process.pid, signal.SIGSTOP)


def _row(
    name: str, own: Sequence[Reading], bare: Sequence[Reading], waits_s: Sequence[float], alone_s: Sequence[float]
) -> str:
    ratios = [one.rate / other.rate for one, other in zip(own, bare, strict=True)]
    quantiles_ms = [[1000 * quantile(one.latencies_s, share) for one in own] for share in (0.5, 0.99)]
    added_ms = [1000 * (wait - alone) for wait, alone in zip(waits_s, alone_s, strict=True)]
    middle = [f"{statistics.median(values):.1f}" for values in quantiles_ms]
    tails = [high / low for low, high in zip(*quantiles_ms, strict=True)]
    cells = [
        *(name, spread(ratios), f"{statistics.median(one.rate for one in own):.0f}", *middle, spread(tails, 1)),
        *(spread([1000 * one.cpu_s / len(one.latencies_s) for one in own]), spread(added_ms)),
        f"{own[-1].memory_bytes / 2**20:.0f}",
    ]
    return row(*cells)


def _alone_s(classifier: Classifier, files: Sequence[bytes], seconds: float) -> float:
    """Return the median time to decode and answer one image in this process."""
    took: list[float] = []
    stop_s = time.perf_counter() + seconds
    while (started_s := time.perf_counter()) < stop_s or not took:
        classifier.answer([classifier.decode(files[len(took) % len(files)])])
        took.append(time.perf_counter() - started_s)
    return statistics.median(took)


@cache
def _files(network: str, spoilt: bool) -> list[bytes]:
    """Return image files: PNG of small images, JPEG of photographs."""
    if network in ("null", "glyphs"):
        images = glyphs.images("test")[0][:_IMAGES]
    else:
        found = [np.asarray(Image.open(path)) for path in sorted((Path(network) / "evaluate").glob("*/*.png"))]
        images = np.stack(found).transpose(0, 3, 1, 2)
        # Turned and mirrored, so that there are more of them than a stream remembers.
        images = np.concatenate([images, images[..., ::-1], images[:, :, ::-1]])[:_IMAGES]
    kind = "PNG" if images.shape[-1] < _PHOTOGRAPH else "JPEG"
    return [_file(image, kind) for image in (corrupt(images, "gaussian_noise", 5) if spoilt else images)]


def _file(image: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, kind, quality=90)
    return file.getvalue()


def _as_json(file: bytes) -> bytes:
    return orjson.dumps({"image": base64.b64encode(file).decode()})


def _request(path: str, body: bytes, headers: bytes = b"") -> bytes:
    kind = b"application/json" if body.startswith(b"{") else b"image/png" if body[:4] == b"\x89PNG" else b"image/jpeg"
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n"
    return head % (path.encode(), kind, headers, len(body)) + body


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server until the block ends, with every process that it starts."""
    # Nothing that a user would not have: without bytecode, each start compiles what it imports, and keeps more memory.
    not_theirs = "TTA_", "PYTHONDONTWRITEBYTECODE"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(not_theirs)}
    with log.with_suffix(".log").open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=clean | {"OMP_NUM_THREADS": "1"}, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
        try:
            process.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whomever its leader has left behind


def _wait(side: Side, folder: Path) -> None:
    """Return when a server answers.

    Raises:
        RuntimeError: If it does not.
    """
    stop_s = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < stop_s and side.process.poll() is None:
        try:
            saturate(side.port, side.requests, 1, 0.0, side.process.pid)
            return
        except (OSError, RuntimeError):  # not yet listening, or not yet ready
            time.sleep(0.2)
    log = (folder / side.name.partition(",")[0]).with_suffix(".log").read_text(errors="replace")
    raise RuntimeError(f"{side.name} did not become ready:\n{log}")


if __name__ == "__main__":
    sys.exit(main())
