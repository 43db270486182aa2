"""Render scene characters: one letter or digit in a random colour on a random gradient, turned, scaled, shifted.

Nothing else is varied. Noise, blur, fog and contrast are left out on purpose: they are the shift that the network is
to meet after deployment.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.models.glyphs.fonts import CAP_HEIGHT_PX, Face
from tta_server.models.glyphs.spec import INPUT_SHAPE, LABELS

SIZE = INPUT_SHAPE[1]
CAP_HEIGHTS_PX = (13.0, 22.0)
TURN_DEGREES = 15.0
SHIFT_PX = 3.0
# Least difference of luminance (0 to 1) between the character and both ends of the gradient.
CONTRAST = 0.35

_LUMINANCE = np.array([0.299, 0.587, 0.114])
_OVERSAMPLING = 2


def dataset(
    faces: list[Face], count: int, rng: np.random.Generator, progress: Callable[[int], None] = lambda done: None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Render a shuffled set whose classes are balanced within one image.

    Every package is drawn equally often, however many faces it has.

    Args:
        faces: What to draw from.
        count: Number of images.
        rng: Source of all randomness.
        progress: Called after each image with the number done.

    Returns:
        Images (count, 3, 32, 32) and labels (count,), indices into LABELS.

    Raises:
        ValueError: If there are no faces.
    """
    if not faces:
        raise ValueError("no fonts to render from, expected at least one face")
    packages = [[face for face in faces if face.package == name] for name in sorted({face.package for face in faces})]
    labels = rng.permutation(np.arange(count) % len(LABELS)).astype(np.int64)
    images = np.empty((count, *INPUT_SHAPE), dtype=np.uint8)
    for row, label in enumerate(labels):
        package = packages[rng.integers(len(packages))]
        images[row] = image(package[rng.integers(len(package))].masks[label], rng)
        progress(row + 1)
    return images, labels


def image(mask: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render one image (3, 32, 32) of the character in `mask`."""
    cover = _place(mask, rng)
    foreground, first, second = _colours(rng)
    along = _gradient(rng)
    background = first[:, None, None] * (1 - along) + second[:, None, None] * along
    blended = background * (1 - cover) + foreground[:, None, None] * cover
    rendered: NDArray[np.uint8] = np.rint(255 * blended).astype(np.uint8)
    return rendered


def _place(mask: Image.Image, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the share of each pixel (32, 32) that the turned, scaled, shifted character covers."""
    angle = math.radians(rng.uniform(-TURN_DEGREES, TURN_DEGREES))
    # Pixels of the mask per pixel drawn.
    step = CAP_HEIGHT_PX / (_OVERSAMPLING * rng.uniform(*CAP_HEIGHTS_PX))
    shift = _OVERSAMPLING * rng.uniform(-SHIFT_PX, SHIFT_PX, size=2)
    cos, sin = step * math.cos(angle), step * math.sin(angle)
    side = SIZE * _OVERSAMPLING
    x, y = side / 2 + shift
    # PIL wants the map from drawn to mask coordinates; the mask's middle goes to (x, y).
    matrix = (cos, sin, mask.width / 2 - cos * x - sin * y, -sin, cos, mask.height / 2 + sin * x - cos * y)
    drawn = mask.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(drawn.reduce(_OVERSAMPLING), dtype=np.float64) / 255


def _colours(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the foreground and the two ends of the gradient, (3, 3) RGB in [0, 1], with enough contrast."""
    while True:  # a draw succeeds about once in four
        colours = rng.uniform(size=(3, 3))
        foreground, *ends = colours @ _LUMINANCE
        if min(abs(foreground - end) for end in ends) >= CONTRAST:
            return colours


def _gradient(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a ramp (32, 32) from 0 to 1 in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    line = np.arange(SIZE)
    ramp = math.cos(angle) * line[None, :] + math.sin(angle) * line[:, None]
    ramp -= ramp.min()
    return np.asarray(ramp / ramp.max())
