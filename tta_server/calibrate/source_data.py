"""Source images, with labels or without: from a folder, from a packed file, or the embedded ones."""

import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tta_server.calibrate.folder import decode, list_folder, list_images
from tta_server.calibrate.progress import Progress
from tta_server.models import Model, glyphs

_KEPT_OF_A_CLASS = 2


@dataclass(frozen=True)
class SourceData:
    """Images as a model takes them, but for the scaling to [0, 1], and their classes.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: Class of each, int64 (N,); None if they are not known.
        remarks: What their owner should know about how they were read.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    remarks: tuple[str, ...] = ()


def read(
    data: str,
    model: Model,
    limit: int,
    seed: int,
    progress: Progress,
    skip_broken: bool = False,
    labelled: bool = True,
) -> SourceData:
    """Read images and bring them to the size that `model` takes.

    Args:
        data: A folder with one folder a class, named as the model's labels, or, without labels, with image files at any
            depth; an .npz file with `images` uint8 (N, C, H, W) and `labels` (N,), indices into those labels; or
            "glyphs", the embedded source images.
        model: Whose labels and preprocessing count.
        limit: Most images that are read, at least 1; of more, so many are drawn. With labels each class keeps its
            share, and at least 2.
        seed: Which ones.
        progress: Told about each image of a folder.
        skip_broken: Leave out files of a folder that cannot be read, and class folders without images.
        labelled: Whether their classes are wanted.

    Raises:
        ValueError: If there is nothing there, files cannot be read (all of them are named), the images have no labels
            where these are wanted, or labels or shape do not fit the model.
    """
    rng, path = np.random.default_rng(seed), Path(data)
    if data == "glyphs" and (labelled or not path.is_dir()):
        found = _embedded(model, labelled)
    elif data and path.is_dir():  # an empty word is no folder, though `Path` takes it for this one
        return _decoded(path, model, limit, rng, progress, skip_broken, labelled)
    elif path.is_file():
        found = _packed(path, len(model.labels), labelled)
    else:
        raise ValueError(f"data '{data}' is neither a folder nor a file, nor the word 'glyphs'")
    if found.images.shape[1:] != model.preprocess.input_shape:
        raise ValueError(
            f"images of '{data}' have shape {found.images.shape[1:]}, but the model takes "
            f"{model.preprocess.input_shape}; pack them at that size, or give a folder of image files"
        )
    if len(found.images) <= limit:
        return found  # a copy of all is a second time all in memory
    kept = _drawn(len(found.images), found.labels, limit, rng)
    return SourceData(found.images[kept], None if found.labels is None else found.labels[kept])


def _embedded(model: Model, labelled: bool) -> SourceData:
    images, labels = glyphs.images("source")
    if not labelled:
        return SourceData(images, None)
    if model.labels != glyphs.LABELS:
        raise ValueError(
            f"the embedded images show {len(glyphs.LABELS)} characters, but the model has {len(model.labels)} "
            "other labels; give --data a folder of the model's own source images"
        )
    return SourceData(images, labels)


def _packed(path: Path, classes: int, labelled: bool) -> SourceData:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"] if labelled else None
    except (ValueError, KeyError, EOFError, OSError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        wanted = "'images'"
        if labelled:
            wanted += " and 'labels': calibration needs both here, and 'images' alone as --unlabelled"
        raise ValueError(f"'{path}' is no packed data; it should be an .npz file with {wanted}") from error
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"'images' of '{path}' are {images.dtype} {images.shape}, expected uint8 (N, C, H, W)")
    if labels is None:
        return SourceData(images, None)
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"'labels' of '{path}' are {labels.dtype} {labels.shape}, expected integers {images.shape[:1]}"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"'labels' of '{path}' go from {labels.min()} to {labels.max()}, expected indices of {classes} classes"
        )
    return SourceData(images, labels.astype(np.int64))


def _decoded(
    root: Path,
    model: Model,
    limit: int,
    rng: np.random.Generator,
    progress: Progress,
    skip_broken: bool,
    labelled: bool,
) -> SourceData:
    fit, opened, labels = model.preprocess, partial(progress, "images opened"), None
    if labelled:
        listing = list_folder(root, model.labels, fit, skip_broken, opened)
        files, labels, remarks = listing.files, listing.labels, listing.remarks
    else:
        files, remarks = list_images(root, fit, skip_broken, opened)
    kept = _drawn(len(files), labels, limit, rng)
    images = decode([files[row] for row in kept], fit, fit.input_shape, partial(progress, "images read"))
    return SourceData(images, None if labels is None else labels[kept], remarks)


def _drawn(count: int, labels: NDArray[np.int64] | None, limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return `limit` rows, in rising order; with labels each class keeps its share of them, and at least two."""
    if count <= limit:
        return np.arange(count)
    if labels is None:
        return np.sort(rng.permutation(count)[:limit])
    kept = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        share = max(_KEPT_OF_A_CLASS, round(len(rows) * limit / len(labels)))
        kept.append(rng.permutation(rows)[:share])
    return np.sort(np.concatenate(kept))
