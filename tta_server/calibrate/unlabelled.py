"""Source images without labels: all in a folder, whatever they are called, or a packed file."""

import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tta_server.calibrate.folder import decode, list_images
from tta_server.calibrate.labelled import Progress
from tta_server.models import Model, glyphs


@dataclass(frozen=True)
class Unlabelled:
    """Images as a model takes them, but for the scaling to [0, 1].

    Attributes:
        images: uint8 (N, C, H, W).
        remarks: What their owner should know about how they were read.
    """

    images: NDArray[np.uint8]
    remarks: tuple[str, ...] = ()


def read_unlabelled(
    data: str, model: Model, limit: int, seed: int, progress: Progress, skip_broken: bool = False
) -> Unlabelled:
    """Read images and bring them to the size that `model` takes.

    Args:
        data: A folder with image files at any depth; an .npz file with `images` uint8 (N, C, H, W); or "glyphs", the
            embedded source images.
        model: Whose preprocessing counts.
        limit: Most images that are read; of more, so many are drawn.
        seed: Which ones.
        progress: Told about each image of a folder.
        skip_broken: Leave out files of a folder that cannot be read.

    Raises:
        ValueError: If there is nothing there, files cannot be read (all of them are named), or a shape does not fit.
    """
    rng, path = np.random.default_rng(seed), Path(data)
    if path.is_dir():
        files, remarks = list_images(path, model.preprocess, skip_broken, partial(progress, "images opened"))
        chosen = [files[row] for row in np.sort(rng.permutation(len(files))[:limit])]
        shape = model.preprocess.input_shape
        return Unlabelled(decode(chosen, model.preprocess, shape, partial(progress, "images read")), remarks)
    if not path.is_file() and data != "glyphs":
        raise ValueError(f"unlabelled data '{data}' is neither a folder nor a file, nor the word 'glyphs'")
    images = glyphs.images("source")[0] if data == "glyphs" else _packed(path)
    if images.shape[1:] != model.preprocess.input_shape:
        raise ValueError(
            f"images of '{data}' have shape {images.shape[1:]}, but the model takes {model.preprocess.input_shape}; "
            "pack them at that size, or give a folder of image files"
        )
    return Unlabelled(images if len(images) <= limit else images[np.sort(rng.permutation(len(images))[:limit])])


def _packed(path: Path) -> NDArray[np.uint8]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images: NDArray[np.uint8] = arrays["images"]
    except (ValueError, KeyError, EOFError, OSError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{path}' is no packed data; it should be an .npz file with 'images'") from error
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"'images' of '{path}' are {images.dtype} {images.shape}, expected uint8 (N, C, H, W)")
    return images
