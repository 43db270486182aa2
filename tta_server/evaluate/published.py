"""The published corrupted test sets, in the folders that their archives unpack to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from tta_server.calibrate.folder import FolderListing, check, class_folders, images_in, list_folder, read
from tta_server.evaluate.corruptions import CORRUPTIONS, SEVERITIES
from tta_server.evaluate.datasets import (
    CLEAN,
    Condition,
    Dataset,
    Embedded,
    ImageFolder,
    Indices,
    digest,
    stamps,
)
from tta_server.models import Model, Preprocess
from tta_server.models.preprocess import Pixels

GROUPS = ("", "noise", "blur", "weather", "digital")
"""Folders of ImageNet-C's archives that its corruptions may still lie in."""

_CLEAN_NAMES = ("clean", "original")

T = TypeVar("T", bound=np.generic)


def open_dataset(data: str, model: Model, seed: int, skip_broken: bool = False) -> Dataset:
    """Find out what `data` is.

    Args:
        data: "glyphs", or a folder in one of the known layouts.
        model: Who will see the images.
        seed: Of the corruptions that we draw ourselves.
        skip_broken: Leave out image files that cannot be read, and class folders without images.

    Raises:
        ValueError: If the folder has none of the layouts; the message says what was looked for.
    """
    if data == "glyphs":
        return Embedded(model, seed)
    root = Path(data)
    if not root.is_dir():
        raise ValueError(f"data folder '{root}' does not exist; use 'glyphs' for the embedded images")
    if (root / "labels.npy").is_file():
        return CifarC(root, model)
    if any(_condition_folder(root, Condition(name, severity)) for name in CORRUPTIONS for severity in SEVERITIES):
        return ImageNetC(root, model, skip_broken)
    if any(images_in(path) for path in class_folders(root)):
        return ImageFolder(root, model, seed, skip_broken)
    raise ValueError(
        f"data folder '{root}' has no known layout; looked for 'labels.npy' beside '<corruption>.npy' (CIFAR-10-C and "
        "CIFAR-100-C), for '<corruption>/<severity>/<class>/' or '<noise, blur, weather or digital>/<corruption>/"
        "<severity>/<class>/' (ImageNet-C), and for '<class>/<image>' (an image folder)"
    )


class CifarC:
    """`<corruption>.npy` (5 n, H, W, 3), ordered by severity, and `labels.npy`; clean in `clean.npy`, if at all."""

    layout = "the layout of CIFAR-10-C"
    computed = False
    remarks = ()

    def __init__(self, root: Path, model: Model) -> None:
        """Open the files; images are read when they are needed.

        Raises:
            ValueError: If a file has another shape or type, or a label is not a class of the model.
        """
        files = {name: _open(root / f"{name}.npy") for name in CORRUPTIONS if (root / f"{name}.npy").is_file()}
        if not files:
            raise ValueError(f"'{root}' has labels.npy but no '<corruption>.npy', such as '{CORRUPTIONS[0]}.npy'")
        rows = {len(file) for file in files.values()}
        if len(rows) != 1 or min(rows) % len(SEVERITIES):
            raise ValueError(f"the files in '{root}' have {sorted(rows)} images, expected one multiple of 5")
        self._size = min(rows) // len(SEVERITIES)
        self._labels = _labels(root / "labels.npy", self._size, len(model.labels))
        clean = [name for name in _CLEAN_NAMES if (root / f"{name}.npy").is_file()]
        if clean:
            files[CLEAN.name] = _open(root / f"{clean[0]}.npy")
            if len(files[CLEAN.name]) < self._size:
                raise ValueError(f"'{root / clean[0]}.npy' has fewer than the {self._size} images of a severity")
        self._files = files
        self._preprocess = model.preprocess
        self.corruptions = tuple(name for name in CORRUPTIONS if name in files)
        self.has_clean = CLEAN.name in files
        stored = stamps(root, [root / f"{name}.npy" for name in (*self.corruptions, *clean[:1])])
        self.fingerprint = digest("cifar-c", self._size, stored, self._labels.tobytes())

    def labels(self, condition: Condition) -> Indices:
        """Return the labels of a severity; see `Dataset.labels`."""
        return self._block(self._labels, condition)

    def images(self, condition: Condition, rows: Indices) -> Pixels:
        """Read some images; see `Dataset.images`."""
        block = self._block(self._files[condition.name], condition)
        return np.stack([_fit(np.asarray(block[row]), self._preprocess) for row in rows])

    def check(self, wanted: Mapping[Condition, Indices]) -> None:
        """Find nothing wrong; see `Dataset.check`."""

    def _block(self, values: npt.NDArray[T], condition: Condition) -> npt.NDArray[T]:
        start = max(condition.severity - 1, 0) * self._size
        return values[start : start + self._size]


class ImageNetC:
    """`<corruption>/<severity>/<class>/<image>`, with or without the archives' folders above; clean in `clean/`."""

    layout = "the layout of ImageNet-C"
    computed = False

    def __init__(self, root: Path, model: Model, skip_broken: bool = False) -> None:
        """Find the corruptions; files are listed when they are needed."""
        found = {
            Condition(name, severity): folder
            for name in CORRUPTIONS
            for severity in SEVERITIES
            if (folder := _condition_folder(root, Condition(name, severity)))
        }
        clean = [root / name for name in _CLEAN_NAMES if (root / name).is_dir()]
        if clean:
            found[CLEAN] = clean[0]
        self._folders = found
        self._preprocess = model.preprocess
        self._listed: dict[Condition, FolderListing] = {}
        self._classes, self._skip_broken = model.labels, skip_broken
        self.corruptions = tuple(name for name in CORRUPTIONS if any(name == condition.name for condition in found))
        self.has_clean = CLEAN in found
        first = self._list(next(iter(found)))  # to list all of them takes minutes
        self.fingerprint = digest("imagenet-c", sorted(found), first.labels.tobytes(), stamps(root, first.files))

    def labels(self, condition: Condition) -> Indices:
        """List the files of a condition; see `Dataset.labels`."""
        return self._list(condition).labels

    def images(self, condition: Condition, rows: Indices) -> Pixels:
        """Read some images; see `Dataset.images`."""
        files = self._list(condition).files
        return np.stack([read(files[row], self._fitted) for row in rows])

    def check(self, wanted: Mapping[Condition, Indices]) -> None:
        """Read some files; see `Dataset.check`."""
        check([self._list(condition).files[row] for condition, rows in wanted.items() for row in rows], self._fitted)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be said about the conditions that were listed so far; see `Dataset.remarks`."""
        return tuple(
            f"{condition.name} {condition.severity}: {remark}"
            for condition, listing in self._listed.items()
            for remark in listing.remarks
        )

    def _list(self, condition: Condition) -> FolderListing:
        if condition not in self._listed:
            folder = self._folder(condition)
            self._listed[condition] = list_folder(folder, self._classes, self._fitted, self._skip_broken)
        return self._listed[condition]

    def _folder(self, condition: Condition) -> Path:
        if condition not in self._folders:
            raise ValueError(f"the data have no '{condition.name}' at severity {condition.severity}")
        return self._folders[condition]

    def _fitted(self, image: Image.Image) -> Pixels:
        return _fit(np.asarray(image.convert("RGB"), dtype=np.uint8), self._preprocess)


def _condition_folder(root: Path, condition: Condition) -> Path | None:
    folders = (root / group / condition.name / str(condition.severity) for group in GROUPS)
    return next((folder for folder in folders if folder.is_dir()), None)


def _open(path: Path) -> Pixels:
    images: Pixels = _load(path)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"'{path}' holds {images.dtype} of shape {images.shape}, expected uint8 (N, H, W, 3)")
    return images


def _load(path: Path) -> npt.NDArray[Any]:
    try:
        # A memory map: the fifteen files of CIFAR-10-C have 2.3 GB.
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"'{path}' cannot be read as a numpy array: {error}") from error
    return array


def _labels(path: Path, size: int, classes: int) -> Indices:
    """Return labels (5 size,); a file with those of one severity is repeated."""
    labels = _load(path)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) not in (size, 5 * size):
        raise ValueError(f"'{path}' holds {labels.dtype} of shape {labels.shape}, expected {5 * size} integers")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"'{path}' has labels {labels.min()} to {labels.max()}, and the model has classes 0 to {classes - 1}"
        )
    return np.resize(labels, 5 * size).astype(np.int64)


def _fit(image: Pixels, preprocess: Preprocess) -> Pixels:
    """Return an image (H, W, 3) as the model takes it; one that has its size already is left as published."""
    if preprocess.input_shape == (3, *image.shape[:2]):
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    return preprocess(Image.fromarray(image))
