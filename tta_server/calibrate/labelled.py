"""Labelled source images: from a folder with one folder a class, from a packed file, or the embedded ones."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tta_server.calibrate.folder import FolderListing, decode, list_folder
from tta_server.models import Model, glyphs

_KEPT_OF_A_CLASS = 2

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done and how much there is."""


@dataclass(frozen=True)
class Labelled:
    """Images as a model takes them, but for the scaling to [0, 1], and their classes.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: Class of each, int64 (N,).
        remarks: What their owner should know about how they were read.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    remarks: tuple[str, ...] = ()


def read(data: str, model: Model, limit: int, seed: int, progress: Progress, skip_broken: bool = False) -> Labelled:
    """Read labelled images and bring them to the size that `model` takes.

    Args:
        data: A folder with one folder a class, named as the model's labels; an .npz file with `images` uint8
            (N, C, H, W) and `labels` (N,), indices into those labels; or "glyphs", the embedded source images.
        model: Whose labels and preprocessing count.
        limit: Most images that are read, at least 1; of more, each class keeps its share, and at least 2.
        seed: Which ones.
        progress: Told about each image of a folder.
        skip_broken: Leave out files of a folder that cannot be read, and class folders without images.

    Raises:
        ValueError: If there is nothing there, files cannot be read (all of them are named), the images have no labels,
            or labels or shape do not fit the model.
    """
    rng = np.random.default_rng(seed)
    path = Path(data)
    if data == "glyphs":
        if model.labels != glyphs.LABELS:
            raise ValueError(
                f"the embedded images show {len(glyphs.LABELS)} characters, but the model has {len(model.labels)} "
                "other labels; give --data a folder of the model's own source images"
            )
        found = Labelled(*glyphs.images("source"))
    elif path.is_dir():
        opened = partial(progress, "images opened")
        listing = list_folder(path, model.labels, model.preprocess, skip_broken, opened)
        return _decode(listing, model, limit, rng, progress)
    elif path.is_file():
        found = _packed(path, len(model.labels))
    else:
        raise ValueError(f"data '{data}' is neither a folder nor a file, nor the word 'glyphs'")
    if found.images.shape[1:] != model.preprocess.input_shape:
        raise ValueError(
            f"images of '{data}' have shape {found.images.shape[1:]}, but the model takes "
            f"{model.preprocess.input_shape}; pack them at that size, or give a folder of image files"
        )
    if len(found.labels) <= limit:
        return found  # a copy of all is a second time all in memory
    kept = _shares(found.labels, limit, rng)
    return Labelled(found.images[kept], found.labels[kept])


def _packed(path: Path, classes: int) -> Labelled:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (ValueError, KeyError, EOFError, OSError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"'{path}' is no packed data; it should be an .npz file with 'images' and 'labels': calibration needs both "
            "here, and 'images' alone as --unlabelled"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"'images' of '{path}' are {images.dtype} {images.shape}, expected uint8 (N, C, H, W)")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"'labels' of '{path}' are {labels.dtype} {labels.shape}, expected integers {images.shape[:1]}"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"'labels' of '{path}' go from {labels.min()} to {labels.max()}, expected indices of {classes} classes"
        )
    return Labelled(images, labels.astype(np.int64))


def _decode(listing: FolderListing, model: Model, limit: int, rng: np.random.Generator, progress: Progress) -> Labelled:
    kept = _shares(listing.labels, limit, rng)
    files = [listing.files[row] for row in kept]
    images = decode(files, model.preprocess, model.preprocess.input_shape, partial(progress, "images read"))
    return Labelled(images, listing.labels[kept], listing.remarks)


def _shares(labels: NDArray[np.int64], limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return rows, in rising order, so that each class keeps its share of `limit` and at least two."""
    if len(labels) <= limit:
        return np.arange(len(labels))
    kept = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = max(_KEPT_OF_A_CLASS, round(len(rows) * limit / len(labels)))
        kept.append(rng.permutation(rows)[:count])
    return np.sort(np.concatenate(kept))
