"""Write a network, its configuration and its images as folders that the commands read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

SETS = ("calibrate", "evaluate")
"""The folders of images: what the source looks like, and what is shown."""


class Shown(NamedTuple):
    """Images and what they show.

    Attributes:
        images: RGB levels, uint8 (N, 3, H, W).
        labels: Index of the class of each, (N,).
    """

    images: np.ndarray
    labels: np.ndarray


def write(
    folder: Path, architecture: str, weights: dict[str, Tensor], labels: Sequence[str], **preprocess: object
) -> Path:
    """Write `weights.safetensors`, `labels.txt` and `model.yaml`; returns the path of the last.

    Args:
        folder: Where; the configuration names its files as this path does, so relative to the folder one starts in.
        architecture: `package.module:factory`.
        weights: The state dict.
        labels: Names of the classes, each once.
        preprocess: Settings of the preprocessing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "weights.safetensors")
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    model: Mapping[str, Any] = {
        "architecture": architecture,
        "weights": str(folder / "weights.safetensors"),
        "labels": str(folder / "labels.txt"),
        "preprocess": preprocess,
    }
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump({"model": model}, sort_keys=False), encoding="utf-8")
    return path


def write_images(folder: Path, shown: Shown, labels: Sequence[str]) -> None:
    """Write images as PNG files, without loss, into a folder for each class that is there.

    Raises:
        FileExistsError: If `folder` exists: what an earlier run left would count too.
    """
    folder.mkdir(parents=True)
    numbers: Counter[int] = Counter()
    for image, label in zip(shown.images, shown.labels.tolist(), strict=True):
        place = folder / labels[label]
        place.mkdir(exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{numbers[label]:04}.png")
        numbers[label] += 1
