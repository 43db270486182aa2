"""Corruptions: the fifteen of CIFAR-10-C and ImageNet-C, at five severities, for images of any size.

Source: Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261; constants and geometry of the authors' generators
`make_cifar_c.py` and `make_imagenet_c.py`, whose files follow the same distributions but not the same draws.
Differs: frost overlays drawn panes as bright and as rough as the photographs, which are not ours to ship.
Differs: levels are rounded once, at the end; the authors truncate, and truncate inside snow and glass blur too.
Differs: motion blur and snow apply ImageMagick's kernel in OpenCV; defocus blur does not crop the rim of its disk.
Differs: elastic transform smooths by the exact Gaussian; the authors cut it at three standard deviations.
Differs: images are not saved as JPEG afterwards, which every ImageNet-C file is, at quality 85.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tta_server.evaluate import distort, weather
from tta_server.evaluate.distort import levels
from tta_server.evaluate.weather import SMALL_SIDE

SEVERITIES = (1, 2, 3, 4, 5)
_LEAST_SIDE = 8


def corrupt(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Return corrupted copies of images.

    Each image draws from its own generator, keyed by (seed, name, severity, index), so its result depends on its
    place but not on the other images. The constants are those of CIFAR-10-C where the shorter side is at most 64
    pixels and those of ImageNet-C above; they are used as they are at every side, in pixels, but for elastic
    transform, pixelate and zoom blur, which go by shares of the side.

    Args:
        images: RGB levels, uint8 (N, 3, H, W), H and W >= 8; left as they are.
        name: One of `CORRUPTIONS`.
        severity: One of `SEVERITIES`; 5 is the strongest.
        seed: Any integer >= 0.

    Returns:
        New levels, uint8 (N, 3, H, W).

    Raises:
        ValueError: If an argument is outside what is said above.
    """
    _check(images, name, severity, seed)
    recipe = _RECIPES[name]
    table = recipe.cifar if min(images.shape[2:]) <= SMALL_SIDE else recipe.imagenet
    row = table[severity - 1]
    constants = row if isinstance(row, tuple) else (row,)
    output = np.empty(images.shape, np.uint8)
    for index, image in enumerate(images):
        key = (CORRUPTIONS.index(name), severity, index)
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
        x = np.ascontiguousarray(image.transpose(1, 2, 0), dtype=np.float32) / 255
        output[index] = levels(recipe.function(x, rng, *constants)).transpose(2, 0, 1)
    return output


def _check(images: np.ndarray, name: str, severity: int, seed: int) -> None:
    if name not in _RECIPES:
        raise ValueError(f"unknown corruption {name!r}; use one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity}, expected one of {', '.join(map(str, SEVERITIES))}")
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected an integer of at least 0")
    if images.dtype != np.uint8:
        raise ValueError(f"images have dtype {images.dtype}, expected uint8 in 0..255")
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < _LEAST_SIDE:
        raise ValueError(
            f"images have shape {images.shape}, expected (N, 3, H, W) with sides of at least {_LEAST_SIDE}"
        )


class _Recipe(NamedTuple):
    """How a corruption is made: a function, and per severity its constants at CIFAR's and at ImageNet's size."""

    function: Callable[..., np.ndarray]
    cifar: Sequence[float | tuple[float, ...]]
    imagenet: Sequence[float | tuple[float, ...]]


# fmt: off
_ELASTIC_244 = (  # shares of 244, for images of 224: so the authors wrote it
    (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02),
)
_RECIPES = {
    "gaussian_noise": _Recipe(distort.gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": _Recipe(distort.shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": _Recipe(distort.impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": _Recipe(
        distort.defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": _Recipe(
        distort.glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": _Recipe(
        distort.motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": _Recipe(
        distort.zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": _Recipe(
        lambda x, rng, *constants: weather.snow(x, rng, weather.Snowfall(*constants)),
        ((0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
         (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)),
        ((0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
         (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)),
    ),
    "frost": _Recipe(
        weather.frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": _Recipe(
        weather.fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": _Recipe(distort.brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": _Recipe(distort.contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": _Recipe(
        distort.elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        tuple(tuple(244 / 224 * share for share in row) for row in _ELASTIC_244),
    ),
    "pixelate": _Recipe(distort.pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": _Recipe(distort.jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
# fmt: on

CORRUPTIONS: tuple[str, ...] = tuple(_RECIPES)
