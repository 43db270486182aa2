"""Labelled images under conditions: clean, or a corruption at a severity."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from tta_server.calibrate.folder import check, list_folder, read
from tta_server.evaluate.corruptions import CORRUPTIONS, corrupt
from tta_server.models import Model, glyphs
from tta_server.models.preprocess import Pixels

Indices = npt.NDArray[np.int64]

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
        fingerprint: Differs whenever images or labels do, as far as number, classes, and names, sizes and times of
            files tell.
        corruptions: Those that it has, in the usual order.
        has_clean: Whether it has images without corruption.
        computed: Whether its images cost so much that they are worth keeping.
    """

    layout: str
    fingerprint: str
    corruptions: tuple[str, ...]
    has_clean: bool
    computed: bool

    @property
    def remarks(self) -> tuple[str, ...]:
        """What its owner should know about how it is read, as far as that is known yet."""
        ...

    def labels(self, condition: Condition) -> Indices:
        """Return the class (N,) of every image of a condition, as the model counts them."""
        ...

    def images(self, condition: Condition, rows: Indices) -> Pixels:
        """Return some of the images of a condition, uint8 (n, C, H, W), as the model takes them."""
        ...

    def check(self, wanted: Mapping[Condition, Indices]) -> None:
        """Find out whether some images of each condition can be read.

        Raises:
            ValueError: If not; all that cannot are named.
        """
        ...


class Embedded:
    """The embedded test images, with our corruptions."""

    layout = "the embedded test set"
    corruptions = CORRUPTIONS
    has_clean = True
    computed = True
    remarks = ()

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

    def check(self, wanted: Mapping[Condition, Indices]) -> None:
        """Find nothing wrong; see `Dataset.check`."""


class ImageFolder:
    """A folder of images for each class, with our corruptions at the model's input size."""

    layout = "a folder for each class"
    corruptions = CORRUPTIONS
    has_clean = True
    computed = True

    def __init__(self, root: Path, model: Model, seed: int, skip_broken: bool = False) -> None:
        """List the images.

        Raises:
            ValueError: If the folders are not the model's classes, or some hold no images.
        """
        self._grey = model.preprocess.channels == 1
        # The corruptions need colour; a grey model gets grey images afterwards.
        self._preprocess = replace(model.preprocess, channels=3)
        listing = list_folder(root, model.labels, self._preprocess, skip_broken)
        self._files, self._labels, self.remarks = listing.files, listing.labels, listing.remarks
        self._seed = seed
        self.fingerprint = digest("folder", seed, self._preprocess, self._grey, stamps(root, self._files))

    def labels(self, condition: Condition) -> Indices:
        """Return all labels; see `Dataset.labels`."""
        return self._labels

    def images(self, condition: Condition, rows: Indices) -> Pixels:
        """Read, preprocess and corrupt some images; see `Dataset.images`."""
        images = np.stack([read(self._files[row], self._preprocess) for row in rows])
        images = corrupted(images, condition, rows, self._seed)
        return np.stack([_grey(image) for image in images]) if self._grey else images

    def check(self, wanted: Mapping[Condition, Indices]) -> None:
        """Read the files behind some images; see `Dataset.check`."""
        rows = np.unique(np.concatenate([np.empty(0, np.int64), *wanted.values()]))
        check([self._files[row] for row in rows], self._preprocess)


def corrupted(images: Pixels, condition: Condition, rows: Indices, seed: int) -> Pixels:
    """Return `images` under a condition; each draws by its row alone, whatever it is asked for together with."""
    if condition == CLEAN:
        return images
    parts = zip(images, rows, strict=True)
    return np.concatenate([corrupt(image[None], *condition, seed * _SEED_STRIDE + int(row)) for image, row in parts])


def stamps(root: Path, files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return of each file its name below `root`, its bytes, and when it was written, in ns."""
    found = ((file.relative_to(root), file.stat()) for file in files)
    return [(name.as_posix(), stat.st_size, stat.st_mtime_ns) for name, stat in found]


def digest(*parts: object) -> str:
    """Return a sha256 over parts, in hex."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes) else str(part).encode())
        sha.update(b"\0")
    return sha.hexdigest()


def _grey(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"), dtype=np.uint8)[None]
