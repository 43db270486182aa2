"""Streams made to harm an adapting model, on the embedded test images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tta_server.evaluate.corruptions import CORRUPTIONS
from tta_server.evaluate.datasets import CLEAN, Condition, Dataset
from tta_server.evaluate.protocols import Domain, Phase
from tta_server.evaluate.reader import Reader
from tta_server.streams.window import Images

UNCOUNTED = -9
"""Label of what has no right answer, such as an outlier: neither model is asked for it."""

RATE = 2.5e-4  # TENT's default
DEMO_RATE = 5e-3
_EASY, _HARD = "motion_blur", ("elastic_transform", "jpeg_compression")
_MILD = ("brightness", "contrast")  # the frozen model reads them well
_TURNS_IMAGES = 1536

Stretch = tuple[Images, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Stream:
    """A stream and the adapter that must survive it.

    Attributes:
        name: For people.
        make: Returns images (N, C, H, W) and their classes (N,).
        window: Images of a window.
        request: Images of a request.
        settings: Of TENT.
    """

    name: str
    make: Callable[[], Stretch]
    window: int = 64
    request: int = 64
    settings: dict[str, Any] = field(default_factory=dict)


class Album:
    """The test images under a condition, in the orders that streams show them in."""

    def __init__(self, dataset: Dataset, reader: Reader, images: int) -> None:
        """Take the data set; `images` of each condition are shown once."""
        self._dataset = dataset
        self._reader = reader
        self._images = images

    def everything(self) -> list[Stretch]:
        """Return clean images and then every corruption, each in random order; a quarter of the images of each."""
        stretches = [self.mixed(name) for name in ("clean", *CORRUPTIONS)]
        return [(images[: self._images // 4], labels[: self._images // 4]) for images, labels in stretches]

    def tour(self) -> Stretch:
        """Return all of this one after the other, and clean images again."""
        stretches = self.everything()
        return _join([*stretches, stretches[0]])

    def mixed(self, name: str, seed: int = 0) -> Stretch:
        """Return a corruption, or "clean", in random order."""
        return self._show(name, self._rows(name, seed))

    def sorted(self, name: str, seed: int = 0) -> Stretch:
        """Return a corruption class by class; classes come in random order."""
        rows = self._rows(name, seed)
        labels = self._dataset.labels(_condition(name))[rows]
        rank = np.random.default_rng(seed).permutation(labels.max() + 1)
        return self._show(name, rows[np.argsort(rank[labels], kind="stable")])

    def _rows(self, name: str, seed: int) -> npt.NDArray[np.int64]:
        everything = len(self._dataset.labels(_condition(name)))
        chosen = np.random.default_rng(0).permutation(everything)[: self._images]
        return np.random.default_rng([seed, 1]).permutation(chosen)

    def _show(self, name: str, rows: npt.NDArray[np.int64]) -> Stretch:
        phase = Phase(name, (Domain(name, _condition(name)),), np.zeros(len(rows), np.int64), rows)
        self._reader.prepare([phase], lambda _images: None)
        return self._reader.images(phase, slice(0, len(rows))), self._reader.labels(phase)


def streams(album: Album) -> Iterator[Stream]:
    """Return every stream, in the order of the table."""
    fast, faster = {"lr": 30 * RATE}, {"lr": 30 * DEMO_RATE}
    yield Stream("one after the other, rate x 30", album.tour, settings=fast)
    yield Stream("one after the other, the demo's rate x 30", album.tour, settings=faster)
    for how, settings in {"": {}, ", rate x 30": fast, ", the demo's rate x 30": faster}.items():
        for name in ("clean", *_HARD):
            yield Stream(f"{name}, class by class{how}", _again(album.sorted, name), 16, 16, settings)
    for name in (_EASY, *_MILD):
        yield Stream(f"{name}, class by class", _again(album.sorted, name), 16, 16)
    for name in ("clean", _HARD[0]):
        yield Stream(f"{name}, batch size 1", _again(album.mixed, name), 64, 1)
        yield Stream(f"{name}, batch size 1 and windows of 2", _again(album.mixed, name), 2, 1)
    for name in ("clean", _EASY, _HARD[0]):
        yield Stream(f"{name}, 20 % outliers", _some(_again(album.mixed, name), 0.2, _noise))
    yield Stream("mixed corruptions", lambda: _shuffled(album.tour()))
    for name in ("clean", _HARD[0]):
        yield Stream(f"{name}, 30 % all-black", _some(_again(album.mixed, name), 0.3, np.zeros_like))
        yield Stream(f"{name}, 4 images again and again", _still(album, name, 0))
        yield Stream(f"{name}, 4 images that flicker", _still(album, name, 2))
        yield Stream(f"{name}, 1 % NaN", _some(_again(album.mixed, name), 0.01, _nan))


def turns(album: Album, count: int) -> Iterator[Stream]:
    """Return streams in which two or three domains take turns, such as day and night or two cameras; drawn at random.

    Domains, images of a turn, where in a turn the stream begins, images of a request and of a window all vary; nobody
    means harm, but what suits one domain ruins another.
    """
    for index in range(count):
        rng = np.random.default_rng([index, 7])
        names = rng.choice(("clean", *CORRUPTIONS), rng.integers(2, 4), replace=False).tolist()
        lengths = rng.choice((16, 32, 64, 80, 256), len(names)).tolist()
        begin, request = int(rng.integers(max(lengths))), int(rng.choice((1, 4, 16, 64)))
        said = " and ".join(f"{length} of {name}" for name, length in zip(names, lengths, strict=True))
        made = partial(_turns, album, names, lengths, begin)
        yield Stream(f"{said} in turn, requests of {request}", made, int(rng.choice((16, 64))), request)


def _turns(album: Album, names: Sequence[str], lengths: Sequence[int], begin: int) -> Stretch:
    shown = [_again(album.mixed, name, 3)() for name in names]
    places = [0] * len(names)
    blocks: list[Stretch] = []
    while sum(map(len, (labels for _, labels in blocks))) < begin + _TURNS_IMAGES:
        which = len(blocks) % len(names)
        rows = np.arange(places[which], places[which] + lengths[which]) % len(shown[which][1])
        places[which] += lengths[which]
        blocks.append((shown[which][0][rows], shown[which][1][rows]))
    images, labels = _join(blocks)
    return images[begin : begin + _TURNS_IMAGES], labels[begin : begin + _TURNS_IMAGES]


def _condition(name: str) -> Condition:
    return CLEAN if name == "clean" else Condition(name, 5)


def _join(stretches: Iterator[Stretch] | Sequence[Stretch]) -> Stretch:
    images, labels = zip(*stretches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _again(show: Callable[[str, int], Stretch], name: str, times: int = 2) -> Callable[[], Stretch]:
    return lambda: _join([show(name, seed) for seed in range(times)])


def _shuffled(stretch: Stretch) -> Stretch:
    order = np.random.default_rng(0).permutation(len(stretch[1]))
    return stretch[0][order], stretch[1][order]


def _some(make: Callable[[], Stretch], share: float, spoil: Callable[[Images], Images]) -> Callable[[], Stretch]:
    """Spoil a share of the images, drawn at random; what is spoilt is not counted."""

    def spoilt() -> Stretch:
        images, labels = make()
        hit = np.random.default_rng(0).random(len(labels)) < share
        bad = spoil(images[hit])
        images = images.astype(np.float32) / 255 if bad.dtype == np.float32 else images
        images[hit] = bad
        return images, np.where(hit, UNCOUNTED, labels)

    return spoilt


def _noise(images: Images) -> Images:
    return np.random.default_rng(1).integers(0, 256, images.shape, dtype=np.uint8)


def _nan(images: Images) -> Images:
    bad = images.astype(np.float32) / 255
    bad[:, 0, 0, 0] = np.nan
    return bad


def _still(album: Album, name: str, levels: int) -> Callable[[], Stretch]:
    """Show four pictures for a long time, each image off by at most some levels, and then the usual ones."""

    def made() -> Stretch:
        images, labels = album.mixed(name)
        count = len(labels) // 4
        flicker = np.random.default_rng(0).integers(-levels, levels + 1, (4 * count, *images.shape[1:]))
        still = (np.repeat(images[:4], count, 0) + flicker).clip(0, 255).astype(np.uint8)
        return _join([(still, np.repeat(labels[:4], count)), *(album.mixed(name, seed) for seed in (1, 2))])

    return made
