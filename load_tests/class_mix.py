"""How often clean images are called drift for their classes, and how soon corrupted ones are, by the scores alone.

    python -m load_tests.class_mix
    python -m load_tests.class_mix --config model.yaml --source calibrate --images evaluate

Each stream draws its images with replacement from images that the bundle was not made of: all classes as they come, or
a share of one class, another one in each stream. The bundle is made anew from `--source`, without what needs forwards
of whole windows.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from load_tests.machine import describe, load_average
from tta_server.app import load_model
from tta_server.calibrate.bundle import Sizes, calibrate
from tta_server.calibrate.null import Windows
from tta_server.calibrate.source_data import SourceData, read
from tta_server.drift.monitor import Monitor
from tta_server.drift.watch import Rows, Watch
from tta_server.evaluate.corruptions import corrupt
from tta_server.models import Backbone, glyphs
from tta_server.settings import DriftSettings
from tta_server.settings_file import load_settings

_SHARES = {"all classes": 0.0, "half of one class": 0.5, "90 % of one class": 0.9, "one class alone": 1.0}
_CORRUPTED = (("fog", 5), ("fog", 3), ("contrast", 2), ("gaussian_noise", 2), ("jpeg_compression", 3), ("snow", 3))
_TIME = "2026-01-01T00:00:00.000+00:00"
_MOST = 1500


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a Markdown report; returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model(load_settings(options.config, {"model": {"device": "cpu"}}).model)
    source = read(options.source, model, 1000, 0, _quiet)
    shown = SourceData(*glyphs.images("test"))
    if options.images != "glyphs":
        shown = read(options.images, model, 4000, 0, _quiet)
    sizes = Sizes(windows=Windows(forward_images=0))
    bundle = calibrate(model.backbone, source.images, source.labels, sizes=sizes, methods=[])
    monitor = Monitor.of(bundle, model.backbone.norm_stats(), DriftSettings(), 64)
    chosen = np.random.default_rng(0).permutation(len(shown.labels))[: min(_MOST, options.most)]
    images, labels = shown.images[chosen], shown.labels[chosen]

    clean = _rows(monitor, model.backbone, images)
    lines = [f"- {name}: {fact}" for name, fact in describe(torch.device("cpu")).items() if name != "device"]
    lines += [f"- load average: {load_average():.1f}", "", "| clean images | streams in drift |", "|---|---|"]
    for name, share in _SHARES.items():
        streams = [
            _mixed(clean, labels, share, seed, options.windows * monitor.size) for seed in range(options.streams)
        ]
        seen = [_windows_until_drift(monitor, stream) for stream in streams]
        lines.append(f"| {name} | {sum(each is not None for each in seen)} of {len(seen)} |")
    lines += ["", "| corrupted images | windows until drift | missed |", "|---|---|---|"]
    for name, severity in _CORRUPTED:
        rows = _rows(monitor, model.backbone, corrupt(images, name, severity, 0))
        length = options.windows * monitor.size
        seen = [
            _windows_until_drift(monitor, _mixed(rows, labels, 0.0, seed, length)) for seed in range(options.streams)
        ]
        found = [each for each in seen if each is not None]
        said = f"{statistics.mean(found):.1f} ({statistics.pstdev(found):.1f})" if found else "-"
        lines.append(f"| {name}, severity {severity} | {said} | {len(seen) - len(found)} of {len(seen)} |")
    print("\n".join(lines))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.class_mix", description="Count false alarms.")
    parser.add_argument("--config", type=Path, help="configuration of the model (default: the embedded one)")
    parser.add_argument("--source", default="glyphs", help="its source images, a folder a class")
    parser.add_argument("--images", default="glyphs", help="the images that are shown, a folder a class")
    parser.add_argument("--streams", type=int, default=20, help="of each kind (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=20, help="that each stream shows (default: %(default)s)")
    parser.add_argument("--most", type=int, default=_MOST, help="images to draw from (default: %(default)s)")
    return parser


def _quiet(_what: str, _done: int, _total: int) -> None:
    pass


def _rows(monitor: Monitor, backbone: Backbone, images: np.ndarray) -> Rows:
    found = []
    for start in range(0, len(images), 64):
        with torch.no_grad():
            found.append(monitor.rows_of(backbone.forward(torch.from_numpy(images[start : start + 64]).float() / 255)))
    return np.concatenate(found)


def _mixed(rows: Rows, labels: np.ndarray, share: float, seed: int, length: int) -> Rows:
    """Return what a stream shows; the class of which it shows a share depends on the seed."""
    rng, classes = np.random.default_rng(seed), np.unique(labels)
    own = np.flatnonzero(labels == classes[seed % len(classes)])
    chosen = np.where(rng.random(length) < share, rng.choice(own, length), rng.integers(len(rows), size=length))
    return rows[chosen]


def _windows_until_drift(monitor: Monitor, rows: Rows) -> int | None:
    watch = Watch()
    for number, start in enumerate(range(0, len(rows), monitor.size), 1):
        watch = monitor.saw(watch, rows[start : start + monitor.size], _TIME)
        if watch.state == "drift":
            return number
    return None


if __name__ == "__main__":
    sys.exit(main())
