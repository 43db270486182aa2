"""Labelled images under conditions: clean, or a corruption at a severity."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from tta_server.evaluate.corruptions import CORRUPTIONS, corrupt
from tta_server.models import Model, glyphs

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))

_SEED_STRIDE = 2**32  # more than any data set has images


class Condition(NamedTuple):
    """How the images of a domain were taken.

    Attributes:
        name: A corruption, or "clean".
        severity: 1 to 5, or 0 for "clean".
    """

    name: str
    severity: int


CLEAN = Condition("clean", 0)


class Dataset(Protocol):
    """Labelled images, read when they are needed.

    Attributes:
        layout: What kind of data it is, for people.
        fingerprint: Differs whenever images or labels do, as far as their number, names and classes tell.
        corruptions: Those that it has, in the usual order.
        has_clean: Whether it has images without corruption.
        computed: Whether its images cost so much that they are worth keeping.
    """

    layout: str
    fingerprint: str
    corruptions: tuple[str, ...]
    has_clean: bool
    computed: bool

    def labels(self, condition: Condition) -> Indices:
        """Return the class (N,) of every image of a condition, as the model counts them."""
        ...

    def images(self, condition: Condition, rows: Indices) -> Pixels:
        """Return some of the images of a condition, uint8 (n, C, H, W), as the model takes them."""
        ...


class Embedded:
    """The embedded test images, with our corruptions."""

    layout = "the embedded test set"
    corruptions = CORRUPTIONS
    has_clean = True
    computed = True

    def __init__(self, model: Model, seed: int) -> None:
        """Read the images.

        Raises:
            ValueError: If the model has other classes or takes another shape.
        """
        if model.labels != glyphs.LABELS or model.backbone.spec.input_shape != glyphs.INPUT_SHAPE:
            raise ValueError(f"model '{model.backbone.spec.name}' does not read glyphs; give a folder as --data")
        self._images, self._labels = glyphs.images("test")
        self._seed = seed
        self.fingerprint = digest("glyphs", seed, self._images.tobytes())

    def labels(self, condition: Condition) -> Indices:
        """Return all labels; see `Dataset.labels`."""
        return self._labels

    def images(self, condition: Condition, rows: Indices) -> Pixels:
        """Corrupt some images; see `Dataset.images`."""
        return corrupted(self._images[rows], condition, rows, self._seed)


class ImageFolder:
    """A folder of images for each class, with our corruptions at the model's input size."""

    layout = "a folder for each class"
    corruptions = CORRUPTIONS
    has_clean = True
    computed = True

    def __init__(self, root: Path, model: Model, seed: int) -> None:
        """List the images.

        Raises:
            ValueError: If the folders are not the model's classes.
        """
        self._files, self._labels = list_classes(root, model.labels)
        self._grey = model.preprocess.channels == 1
        # The corruptions need colour; a grey model gets grey images afterwards.
        self._preprocess = replace(model.preprocess, channels=3)
        self._seed = seed
        names = "\n".join(str(path.relative_to(root)) for path in self._files)
        self.fingerprint = digest("folder", seed, self._preprocess, self._grey, names)

    def labels(self, condition: Condition) -> Indices:
        """Return all labels; see `Dataset.labels`."""
        return self._labels

    def images(self, condition: Condition, rows: Indices) -> Pixels:
        """Read, preprocess and corrupt some images; see `Dataset.images`."""
        images = np.stack([read(self._files[row], self._preprocess) for row in rows])
        images = corrupted(images, condition, rows, self._seed)
        return np.stack([_grey(image) for image in images]) if self._grey else images


def corrupted(images: Pixels, condition: Condition, rows: Indices, seed: int) -> Pixels:
    """Return `images` under a condition; each draws by its row alone, whatever it is asked for together with."""
    if condition == CLEAN:
        return images
    parts = zip(images, rows, strict=True)
    return np.concatenate([corrupt(image[None], *condition, seed * _SEED_STRIDE + int(row)) for image, row in parts])


def list_classes(root: Path, labels: Sequence[str]) -> tuple[list[Path], Indices]:
    """List the images of a folder that has a folder for each class, in order of names.

    Args:
        root: The folder.
        labels: The model's classes. Folders are matched by name; if no name fits and there are as many as classes,
            by their order, as the usual training loaders do.

    Returns:
        The files and the class (N,) of each.

    Raises:
        ValueError: If the folders are not the model's classes, or hold no images.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    known = {label: index for index, label in reversed(list(enumerate(labels)))}  # of two equal ones, the first
    unknown = [path.name for path in folders if path.name not in known]
    if unknown:
        if len(unknown) < len(folders):
            raise ValueError(f"'{root}' has a folder '{unknown[0]}', which is none of the model's labels; rename it")
        if len(folders) != len(labels):
            raise ValueError(
                f"'{root}' has {len(folders)} class folders, '{folders[0].name}' first, and the model has "
                f"{len(labels)} classes, '{labels[0]}' first; name the folders as the model's labels"
            )
        known = {path.name: index for index, path in enumerate(folders)}
    found = [(file, known[path.name]) for path in folders for file in sorted(path.rglob("*")) if is_image(file)]
    if not found:
        raise ValueError(f"the class folders in '{root}' hold no images")
    return [file for file, _ in found], np.array([label for _, label in found], dtype=np.int64)


def is_image(path: Path) -> bool:
    """Say whether a path is an image, by its name."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read(path: Path, preprocess: Callable[[Image.Image], Pixels]) -> Pixels:
    """Return one file as the model takes it, (C, H, W).

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return preprocess(image)
    except Exception as error:  # Pillow raises whatever the damage leads to
        raise ValueError(f"image '{path}' cannot be read: {error}") from error


def digest(*parts: object) -> str:
    """Return a sha256 over parts, in hex."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes) else str(part).encode())
        sha.update(b"\0")
    return sha.hexdigest()


def _grey(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"), dtype=np.uint8)[None]
