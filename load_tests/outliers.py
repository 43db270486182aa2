"""What a share of noise images in a batch costs the other images, by how the batch's statistics are taken.

python -m load_tests.outliers
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from load_tests.clock import alternate, clock_for, spread
from load_tests.machine import load_average
from load_tests.report import head, publish, ran_on, row
from tta_server import models
from tta_server.evaluate.corruptions import corrupt
from tta_server.models import Backbone, glyphs
from tta_server.models.robust import robust

_SHARES = (0.0, 0.05, 0.1, 0.2)
_DOMAINS = ("clean", "fog", "contrast", "gaussian_noise")
_NOISE = 1.5  # standard deviation that outliers get on top, where images are in [0, 1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    backbone = models.load("glyphs").backbone
    kinds = {"means": robust(backbone, 16), "medians": robust(backbone, 16, median=True)}
    images, labels = (part[: options.images] for part in glyphs.images("test"))
    before = load_average()
    lines = [
        "",
        f"**Outliers**: error in % of the other images of a batch of {options.batch}, by share of noise images",
        "",
        *head("domain", "frozen", *(f"{kind}, {share:.0%}" for kind in kinds for share in _SHARES)),
    ]
    for domain in _DOMAINS:
        x = torch.from_numpy(images if domain == "clean" else corrupt(images, domain, 5)).float() / 255
        frozen = (backbone.forward(x).logits.argmax(1).numpy() != labels).mean()
        cells = [_error(judge, x, labels, share, options.batch) for judge in kinds.values() for share in _SHARES]
        lines.append(row(domain, *(f"{value:.1%}" for value in (frozen, *cells))))
    lines += ["", f"A forward with medians takes {_cost(kinds, x[: options.batch], options.rounds)} times as long."]
    publish([*ran_on(before, backbone.device), *lines], options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.outliers", description=__doc__)
    parser.add_argument("--images", type=int, default=1024, help="of each domain (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images of a batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="most pairs for the cost (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads on the CPU (default: its own choice)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _error(backbone: Backbone, x: Tensor, labels: "np.ndarray", share: float, batch: int) -> float:
    """Return the share of misread images among those that are no outliers."""
    generator = torch.Generator().manual_seed(0)
    strange = round(share * batch)
    wrong: list[bool] = []
    for start in range(0, len(x) - batch + 1, batch):
        part = x[start : start + batch].clone()
        part[:strange] += _NOISE * torch.randn(part[:strange].shape, generator=generator)
        predicted = backbone.forward(part, statistics="batch").logits.argmax(1).numpy()
        wrong += (predicted != labels[start : start + batch])[strange:].tolist()
    return float(np.mean(wrong))


def _cost(kinds: dict[str, Backbone], x: Tensor, rounds: int) -> str:
    def run(kind: str) -> object:
        with torch.inference_mode():
            return kinds[kind].forward(x, statistics="batch")

    pairs = alternate(lambda: run("means"), lambda: run("medians"), clock_for(x.device), rounds, 20)
    return spread(pairs.ratios)


if __name__ == "__main__":
    sys.exit(main())
