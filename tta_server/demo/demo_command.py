"""`tta-server demo`: what adaptation does, measured over HTTP against real servers."""

import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from tta_server.demo.camera import Feed, Scene, camera, order, replay
from tta_server.demo.chart import Stretch, draw
from tta_server.demo.local_server import serving
from tta_server.demo.verdict import ADAPTING, FROZEN, ONE_STATE, Shown, judge
from tta_server.models import glyphs

_CAMERA = "camera"
_PER_REQUEST = 16
_FEWEST = 128
SEED = 2026  # of the camera

# Above the default rate, so that a few hundred images show what steps add to statistics; and every window is learnt
# from, as at the pace of a camera: without a rest, and the camera waits for it.
CONFIG: dict[str, Any] = {
    "adapter": {"name": "tent", "settings": {"lr": 0.005}},
    "engine": {"learn_share": 1},
    "streams": {"named": {FROZEN: {"mode": "off"}}},
}
_ONE_STATE_CONFIG = {**CONFIG, "domains": {"max": 1}}

_HEADING = (
    f"errors of a drifting camera that posts {_PER_REQUEST} images a request; 'one state' is of a server that tells no "
    f"domains apart\n{'scene':18} {'frozen':>7} {'one state':>10} {'adapting':>9} {'domain':>10} {'images/s':>8} "
    f"{'p50 ms':>6} {'p99 ms':>6}"
)
_LINE = (
    "{scene:18} {frozen_error:7.1%} {one_state_error:10.1%} {adapting_error:9.1%} {domain:>10} "
    "{images_per_second:8.0f} {p50_ms:6.0f} {p99_ms:6.0f}"
)


def demo(images: int, severity: int, out: Path, port: int, keep: bool) -> int:
    """Show a drifting camera's scenes twice to a frozen and to adapting streams; print a table and write a chart.

    Args:
        images: Images a scene, at least 128 and at most as many as the embedded test set has.
        severity: Of the corruptions, 1 to 5.
        out: Folder for the chart, the table as JSON, the configurations and the servers' logs.
        port: Where the server listens; 0 picks a free port.
        keep: Leave the server running until interrupted.

    Returns:
        0 if adapting had at most 0.8 times the frozen error and cost at most 2 points on clean images, else 1.

    Raises:
        ValueError: If there are too few or too many images.
        OSError: If a server does not start.
    """
    most = len(glyphs.images("test")[0])
    if not _FEWEST <= images <= most:
        raise ValueError(
            f"images must be {_FEWEST} to {most} a scene, got {images}: fewer say little, more there are not"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped then too
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("corrupting images", total=len(order()))
        scenes = camera(images, severity, SEED, lambda _name: bar.advance(task))
    with ExitStack() as servers:
        with console.status("starting the servers"):
            url = servers.enter_context(serving(out, CONFIG, port))
            other = servers.enter_context(serving(out / "one_state", _ONE_STATE_CONFIG, 0))
        feeds = {FROZEN: Feed(url, FROZEN), ONE_STATE: Feed(other, _CAMERA), ADAPTING: Feed(url, _CAMERA)}
        rows = _show(scenes, feeds, console)
        words, good = judge(rows, severity)
        _write(rows, severity, out)
        console.print(f"{words} Chart: {out / 'demo.png'}", soft_wrap=True, highlight=False)
        if keep:
            (out / "frame.png").write_bytes(scenes[1].files[0])
            _stay(url, out, console)
    return 0 if good else 1


def _show(scenes: Sequence[Scene], feeds: Mapping[str, Feed], console: Console) -> list[Shown]:
    rows: list[Shown] = []
    console.print(_HEADING, soft_wrap=True, highlight=False)
    for scene in scenes:
        with console.status(f"showing {scene.name}"):
            begun_s = time.perf_counter()
            answers = replay(scene, feeds, _PER_REQUEST)
        rows.append(Shown(scene, answers, time.perf_counter() - begun_s))
        console.print(_LINE.format(**rows[-1].numbers()), soft_wrap=True, highlight=False)
    return rows


def _write(rows: Sequence[Shown], severity: int, out: Path) -> None:
    """Write chart and table."""
    stretches = [
        Stretch(
            scene.name,
            scene.showing,
            {name: answer.wrong for name, answer in answers.items()},
            answers[ADAPTING].domains,
        )
        for scene, answers, _ in rows
    ]
    draw(out / "demo.png", stretches, "A drifting camera, shown the same corruptions twice")
    content = {"config": CONFIG, "severity": severity, "scenes": [row.numbers() for row in rows]}
    (out / "demo.json").write_text(json.dumps(content, indent=1))


def _stay(url: str, out: Path, console: Console) -> None:
    console.print(f"The server is still running at {url} (Ctrl-C stops it). Try:")
    console.print(
        f"  curl -F image=@{out / 'frame.png'} -H 'X-Stream-Id: {_CAMERA}' '{url}/predict?top_k=3'", soft_wrap=True
    )
    console.print(f"  curl {url}/v1/streams", soft_wrap=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping the server")
