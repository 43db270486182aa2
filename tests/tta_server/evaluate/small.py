"""Small data sets in every layout, a small model, and a data set that is only labels."""

from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

from tests.tta_server.runtime.fakes import SHAPE, Tiny, tiny
from tta_server.evaluate.corruptions import CORRUPTIONS
from tta_server.models import Model, Preprocess

CLASSES = 4
LABELS = ("ant", "bee", "cat", "dog")
SIDE = SHAPE[1]


class OnlyLabels:
    """A data set without images; the number of a row and its condition stand for them."""

    layout = "labels"
    fingerprint = "labels"
    computed = False
    remarks = ()

    def __init__(self, size: int = 40, classes: int = CLASSES, has_clean: bool = True, corruptions=CORRUPTIONS):
        self._labels = np.random.default_rng(1).integers(0, classes, size)
        self.has_clean = has_clean
        self.corruptions = corruptions

    def labels(self, condition):
        return self._labels

    def images(self, condition, rows):
        return np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), 3, SIDE, SIDE)).copy()

    def check(self, wanted):
        """Nothing is broken."""


def network() -> nn.Module:
    """Return the tiny network with fixed weights; named by configurations."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Tiny()


def model(channels: int = 3) -> Model:
    """Return the tiny network, ready to serve."""
    return Model(tiny(), Preprocess((SIDE, SIDE), channels=channels), LABELS)


def pixels(count: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Return images (count, side, side, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def cifar(root: Path, size: int = 12, names=("gaussian_noise", "fog"), clean: bool = True) -> Path:
    """Write `size` images a severity in the layout of CIFAR-10-C."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        np.save(root / f"{name}.npy", pixels(5 * size, seed))
    if clean:
        np.save(root / "clean.npy", pixels(size, 99))
    np.save(root / "labels.npy", np.tile(np.arange(size) % CLASSES, 5))
    return root


def folder(root: Path, each: int = 3, names=LABELS, side: int = SIDE, suffix: str = ".png") -> Path:
    """Write `each` images a class."""
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(pixels(each, index, side)):
            Image.fromarray(image).save(root / name / f"{number}{suffix}")
    return root


def configuration(path: Path) -> Path:
    """Write a configuration that names the tiny network."""
    section = {
        "architecture": "tests.tta_server.evaluate.small:network",
        "labels": list(LABELS),
        "preprocess": {"size": [SIDE, SIDE]},
        "device": "cpu",
    }
    path.write_text(yaml.safe_dump({"model": section}))
    return path
