"""`tta-server demo`: what adaptation does, measured over HTTP against a real server."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from rich.console import Console
from rich.progress import Progress

from tta_server.demo.camera import Replayed, Scene, camera, replay
from tta_server.demo.chart import draw
from tta_server.evaluate.corruptions import CORRUPTIONS
from tta_server.models import glyphs

FROZEN, ADAPTING = "frozen", "adapting"
_STREAMS = (FROZEN, ADAPTING)
_PER_REQUEST = 16
_FEWEST = 400
_SEED = 2026
_START_WITHIN_S = 120.0

# Below the best rate on source and on test images alike (0.01 and more), to stay clear of collapse.
CONFIG: dict[str, Any] = {
    "adapter": {"name": "tent", "settings": {"lr": 0.005, "stats": "ema"}},
    "streams": {"named": {FROZEN: {"mode": "off"}}},
}

_HEADING = (
    f"errors of a drifting camera that posts {_PER_REQUEST} images a request to two streams\n"
    f"{'phase':18} {'frozen':>8} {'adapting':>9} {'images/s':>9} {'p50 ms':>7} {'p99 ms':>7} {'version':>8}"
)
_LINE = (
    "{phase:18} {frozen_error:8.1%} {adapting_error:9.1%} {images_per_second:9.0f} {p50_ms:7.1f} {p99_ms:7.1f} "
    "{state_version:8d}"
)

SceneResult = tuple[Scene, dict[str, Replayed], float]


def demo(images: int, severity: int, out: Path, port: int, keep: bool) -> int:
    """Replay a drifting camera to a frozen and an adapting stream; print a table and write a chart.

    Args:
        images: Images a phase, at least 400 and at most as many as the embedded test set has.
        severity: Of the corruptions, 1 to 5.
        out: Folder for the chart, the table as JSON, the configuration and the server's log.
        port: Where the server listens; 0 picks a free port.
        keep: Leave the server running until interrupted.

    Returns:
        0 if adapting had at most 0.8 times the frozen error and cost at most 2 points on clean images, else 1.

    Raises:
        ValueError: If there are too few or too many images.
        OSError: If the server does not start.
    """
    most = len(glyphs.images("test")[0])
    if not _FEWEST <= images <= most:
        raise ValueError(
            f"images must be {_FEWEST} to {most} a phase, got {images}: fewer say little, more there are not"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then too
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("corrupting images", total=len(CORRUPTIONS) + 2)
        phases = camera(images, severity, _SEED, lambda _name: bar.advance(task))
    with _server(out, port or _free_port(), console) as url:
        rows: list[SceneResult] = []
        console.print(_HEADING, highlight=False)
        for phase in phases:
            with console.status(f"replaying {phase.name}"):
                begun_s = time.perf_counter()
                answers = replay(url, phase, _STREAMS, _PER_REQUEST)
            rows.append((phase, answers, time.perf_counter() - begun_s))
            console.print(_LINE.format(**_numbers(rows[-1])), highlight=False)
        verdict, good = _report(rows, severity, out)
        console.print(verdict, soft_wrap=True, highlight=False)
        if keep:
            (out / "frame.png").write_bytes(phases[1].files[0])
            _stay(url, out, console)
    return 0 if good else 1


def _report(rows: list[SceneResult], severity: int, out: Path) -> tuple[str, bool]:
    """Write chart and table, and return the verdict in a line."""
    mean = {stream: float(np.mean([answers[stream].error for _, answers, _ in rows[1:-1]])) for stream in _STREAMS}
    clean = {stream: rows[-1][1][stream].error for stream in _STREAMS}
    ratio, cost = mean[ADAPTING] / mean[FROZEN], clean[ADAPTING] - clean[FROZEN]
    good = ratio <= 0.8 and cost <= 0.02
    numbers = (
        f"mean error over the {len(CORRUPTIONS)} corruptions at severity {severity}: "
        f"frozen {mean[FROZEN]:.1%}, adapting {mean[ADAPTING]:.1%} ({ratio:.2f} x); "
        f"clean at the end: {clean[FROZEN]:.1%} and {clean[ADAPTING]:.1%}"
    )
    wrong = {stream: [answers[stream].wrong for _, answers, _ in rows] for stream in _STREAMS}
    draw(out / "demo.png", [phase.name for phase, _, _ in rows], wrong, numbers[0].upper() + numbers[1:])
    table = [_numbers(row) for row in rows]
    (out / "demo.json").write_text(json.dumps({"config": CONFIG, "severity": severity, "phases": table}, indent=1))
    return f"{'Adapting helped' if good else 'Adapting did NOT help'}: {numbers}. Chart: {out / 'demo.png'}", good


def _numbers(row: SceneResult) -> dict[str, Any]:
    phase, answers, elapsed_s = row
    latencies_ms = 1000 * np.concatenate([answer.latencies_s for answer in answers.values()])
    return {
        "phase": phase.name,
        "frozen_error": answers[FROZEN].error,
        "adapting_error": answers[ADAPTING].error,
        "images_per_second": len(_STREAMS) * len(phase.files) / elapsed_s,
        "p50_ms": float(np.percentile(latencies_ms, 50)),
        "p99_ms": float(np.percentile(latencies_ms, 99)),
        "state_version": answers[ADAPTING].version,
    }


@contextmanager
def _server(out: Path, port: int, console: Console) -> Iterator[str]:
    """Run `tta-server serve` in a process of its own until the block ends."""
    config, log = out / "config.yaml", out / "server.log"
    config.write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tta_server", "serve", "--config", str(config), "--host", "127.0.0.1"]
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=file, stderr=file)  # noqa: S603
    try:
        with console.status(f"starting the server on {url}"):
            _wait(url, process, log)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + _START_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise OSError(f"the server did not start; the end of {log}:\n{log.read_text()[-2000:]}")


def _stay(url: str, out: Path, console: Console) -> None:
    console.print(f"The server is still running at {url} (Ctrl-C stops it). Try:")
    console.print(
        f"  curl -F image=@{out / 'frame.png'} -H 'X-Stream-Id: {ADAPTING}' '{url}/predict?top_k=3'", soft_wrap=True
    )
    console.print(f"  curl {url}/v1/streams", soft_wrap=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping the server")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
