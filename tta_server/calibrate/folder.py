"""Images in folders, one for each class or any: the same files in the same order, whoever reads them."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.errors import TTAError, UnsupportedMedia
from tta_server.runtime.images.codec import NAMES, SUFFIXES, Upload, open_image

_LITTER = frozenset(("__pycache__", "__MACOSX", "@eaDir"))  # what programs leave in folders, beside hidden names
_MOST_SHOWN = 20

Fit = Callable[[Image.Image], NDArray[np.uint8]]
"""From a decoded image to what a model takes, uint8 (C, H, W)."""


@dataclass(frozen=True)
class FolderListing:
    """Images and their classes, by folder name and then by path.

    Attributes:
        files: The images.
        labels: Class of each, int64 (N,).
        remarks: What its owner should know: how folders were matched, what was left out.
    """

    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    remarks: tuple[str, ...] = ()


def list_folder(
    root: Path,
    labels: Sequence[str],
    fit: Fit,
    skip_broken: bool,
    told: Callable[[int, int], None] = lambda _done, _total: None,
) -> FolderListing:
    """List the images of a folder that has a folder for each class, with images in it at any depth.

    Hidden files and folders count as little as what programs leave behind.

    Args:
        root: The folder.
        labels: The model's classes. Folders are matched by name; if no name fits and there are as many as classes,
            by their order, as the usual training loaders do.
        fit: How an image is read.
        skip_broken: Open every image and leave out those that cannot be read, and folders without any.
        told: While images are opened: how many were, and how many there are.

    Raises:
        ValueError: If the folders are not the model's classes, some hold no images, all of which are named, or no
            image can be read.
    """
    folders = class_folders(root)
    classes, remarks = _match(root, folders, labels)
    found = {folder: images_in(folder) for folder in folders}
    files = [file for folder in folders for file in found[folder]]
    empty = [folder.name for folder in folders if not found[folder]]
    if not files:
        raise ValueError(f"the class folders in '{root}' hold no images")
    if empty and not skip_broken:
        raise ValueError(
            f"{len(empty)} of the {len(folders)} class folders in '{root}' hold no images: {_some(empty)}; "
            "delete them, or leave them out with --skip-broken"
        )
    if empty:
        remarks.append(f"left out {len(empty)} class folders without images: {_some(empty)}")
    index = np.array([classes[folder] for folder in folders for _ in found[folder]], dtype=np.int64)
    if skip_broken:
        readable, left_out = _readable(root, files, fit, told)
        files, index = [files[row] for row in readable], index[readable]
        remarks += left_out
    return FolderListing(tuple(files), index, tuple(remarks))


def list_images(
    root: Path, fit: Fit, skip_broken: bool, told: Callable[[int, int], None] = lambda _done, _total: None
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """List all images in a folder and below it, of any names, and what their owner should know.

    Args:
        root: The folder.
        fit: How an image is read.
        skip_broken: Open every image and leave out those that cannot be read.
        told: While images are opened: how many were, and how many there are.

    Raises:
        ValueError: If there are none, or none can be read.
    """
    files = images_in(root)
    if not files:
        raise ValueError(f"'{root}' holds no images, nor does a folder in it")
    if not skip_broken:
        return tuple(files), ()
    readable, remarks = _readable(root, files, fit, told)
    return tuple(files[row] for row in readable), tuple(remarks)


def decode(
    files: Sequence[Path], fit: Fit, shape: tuple[int, int, int], told: Callable[[int, int], None]
) -> NDArray[np.uint8]:
    """Return files as the model takes them, (N, C, H, W).

    Args:
        files: What is read.
        fit: How.
        shape: Of what `fit` returns.
        told: How many were read, and how many there are.

    Raises:
        ValueError: If some cannot be read; all are named.
    """
    images = np.empty((len(files), *shape), np.uint8)
    problems: list[ValueError] = []
    for done, image in enumerate(attempts(files, fit)):
        if isinstance(image, ValueError):
            problems.append(image)
        else:
            images[done] = image
        told(done + 1, len(files))
    refuse_broken(problems, len(files))
    return images


def class_folders(root: Path) -> list[Path]:
    """Return the folders in `root` that may be classes, in order of names."""
    return sorted(path for path in root.iterdir() if _counts(path.name) and path.is_dir())


def images_in(folder: Path) -> list[Path]:
    """Return the images in a folder and in those below it, in order of paths."""
    found: list[Path] = []
    entered: set[str] = set()
    for place, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        # A link may lead back to where it lies.
        below[:] = [] if real in entered else [name for name in below if _counts(name)]
        if real not in entered:
            found += [file for name in names if _counts(name) and _is_image(file := Path(place, name))]
        entered.add(real)
    return sorted(found)


def read(path: Path, fit: Fit) -> NDArray[np.uint8]:
    """Return one file as the model takes it, (C, H, W).

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        return open_image(Upload("it", path.read_bytes())).decode(fit)
    except UnsupportedMedia as error:
        raise ValueError(f"image '{path}' cannot be read: it is of no known format, {NAMES}") from error
    except (TTAError, OSError) as error:
        reason = str(error).partition("; ")[0]  # what follows is advice for callers of the server
        raise ValueError(f"image '{path}' cannot be read: {reason}") from error


def attempts(files: Sequence[Path], fit: Fit) -> Iterator[NDArray[np.uint8] | ValueError]:
    """Read files on several threads; yields each in order, or why it cannot be read."""

    def attempt(path: Path) -> NDArray[np.uint8] | ValueError:
        try:
            return read(path, fit)
        except ValueError as error:
            return error

    with ThreadPoolExecutor() as pool:
        yield from pool.map(attempt, files)


def refuse_broken(problems: Sequence[ValueError], total: int) -> None:
    """Refuse files that could not be read, with all of them in one message, one line each.

    Args:
        problems: What `attempts` gave in place of images.
        total: How many were tried.

    Raises:
        ValueError: If there are any.
    """
    if problems:
        advice = "mend or delete them, or leave them out with --skip-broken"
        shown = [str(problem) for problem in problems[:_MOST_SHOWN]]
        more = [f"and {len(problems) - _MOST_SHOWN} more"] if len(problems) > _MOST_SHOWN else []
        raise ValueError("\n".join([f"{len(problems)} of {total} images cannot be read; {advice}", *shown, *more]))


def check(files: Sequence[Path], fit: Fit) -> None:
    """Read files and keep nothing.

    Raises:
        ValueError: If some cannot be read; all are named.
    """
    refuse_broken([image for image in attempts(files, fit) if isinstance(image, ValueError)], len(files))


def _match(root: Path, folders: Sequence[Path], labels: Sequence[str]) -> tuple[dict[Path, int], list[str]]:
    """Return the class of each folder, and what is to be said about it."""
    known = {label: index for index, label in reversed(list(enumerate(labels)))}  # of two equal ones, the first
    unknown = [folder.name for folder in folders if folder.name not in known]
    if not folders:
        raise ValueError(
            f"'{root}' has no folders in it; labelled images are needed: one folder for each class, named as the "
            "model's label, with image files in it; 'calibrate' takes images without labels as --unlabelled"
        )
    if not unknown:
        return {folder: known[folder.name] for folder in folders}, []
    if len(unknown) < len(folders):
        more = f", and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ValueError(
            f"'{root}' has a folder '{unknown[0]}', which is none of the model's labels{more}; its {len(labels)} "
            f"labels start with {', '.join(map(repr, labels[:5]))}; name the folders so, or give the names of the "
            "classes, in the model's order, as --labels"
        )
    if len(folders) != len(labels):
        raise ValueError(
            f"'{root}' has {len(folders)} class folders, '{folders[0].name}' first, and the model has "
            f"{len(labels)} classes, '{labels[0]}' first; name the folders as the model's labels"
        )
    remark = f"no folder is named as a label, so they count in order: '{folders[0].name}' is '{labels[0]}'"
    return {folder: index for index, folder in enumerate(folders)}, [remark]


def _readable(
    root: Path, files: Sequence[Path], fit: Fit, told: Callable[[int, int], None]
) -> tuple[NDArray[np.int64], list[str]]:
    """Return which files can be read, and what is to be said of the others."""
    opened = np.zeros(len(files), np.bool_)
    for row, image in enumerate(attempts(files, fit)):
        opened[row] = not isinstance(image, ValueError)
        told(row + 1, len(files))
    if not opened.any():
        raise ValueError(f"none of the {len(files)} images in '{root}' can be read")
    broken = [str(file.relative_to(root)) for file, fine in zip(files, opened, strict=True) if not fine]
    remarks = [f"left out {len(broken)} images that cannot be read: {_some(broken)}"] if broken else []
    return np.flatnonzero(opened), remarks


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in _LITTER


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_MOST_SHOWN])
    return f"{shown} and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else shown
