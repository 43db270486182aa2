"""Snow, frost and fog; sources and departures in `corruptions`."""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from tta_server.evaluate.distort import Intensities, Rng, blur, smear, zoom

SMALL_SIDE = 64  # up to here the CIFAR constants serve
_FROST_SIDE = 1024


class Snowfall(NamedTuple):
    """How it snows: the authors' seven constants.

    Attributes:
        mean: Of the normal noise that flakes are made of.
        spread: Its standard deviation.
        scale: How much it is enlarged.
        threshold: What is below is no flake.
        radius: Of the streaks, in pixels.
        sigma: Of their fading, in pixels.
        share: Of the scene that is not whitened.
    """

    mean: float
    spread: float
    scale: float
    threshold: float
    radius: int
    sigma: float
    share: float


def snow(x: Intensities, rng: Rng, fall: Snowfall) -> np.ndarray:
    """Whiten the scene and let streaks of thresholded noise fall both ways."""
    flakes = zoom(fall.mean + fall.spread * rng.standard_normal(x.shape[:2], dtype=np.float32), fall.scale)
    flakes = np.where(flakes < fall.threshold, np.float32(0), np.clip(flakes, 0, 1))
    streaks: Intensities = smear(flakes, fall.radius, fall.sigma, rng.uniform(-135, -45))[..., None]
    grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None]
    whitened: Intensities = fall.share * x + (1 - fall.share) * np.maximum(x, 1.5 * grey + 0.5)
    return whitened + streaks + np.rot90(streaks, 2)


def frost(x: Intensities, rng: Rng, scene: float, ice: float) -> np.ndarray:
    """Mix the scene with a random crop of the drawn ice."""
    height, width = x.shape[:2]
    # For CIFAR the authors shrink their photographs to a fifth.
    texture = _frost_texture(0.2 if min(height, width) <= SMALL_SIDE else 1.0)
    top, left = (rng.integers(max(len(texture) - side, 1)) for side in (height, width))
    crop = texture.take(np.arange(top, top + height), 0, mode="wrap")
    return scene * x + ice * crop.take(np.arange(left, left + width), 1, mode="wrap")


@cache
def _frost_texture(scale: float) -> np.ndarray:
    """Return the drawing of an iced window, float32 (side, side, 3) in [0, 1], the same in every process."""
    rng = np.random.default_rng(0)
    needles = np.zeros((_FROST_SIDE, _FROST_SIDE), np.uint8)
    clouds: np.ndarray = np.zeros(needles.shape)
    for cells in (8, 16, 32, 64, 128, 256):
        clouds += cv2.resize(rng.random((cells, cells)), clouds.shape, interpolation=cv2.INTER_CUBIC) / cells**0.7
    for _ in range(700):
        _draw_fern(needles, rng)
    rough = (clouds - clouds.mean()) / clouds.std() + 0.3 * rng.standard_normal(clouds.shape)
    ice = np.clip(0.38 + 0.17 * rough + 0.6 * blur(needles / 255, 0.7), 0, 1)
    bluish = np.stack([ice**1.25, ice, ice**0.85], axis=2).astype(np.float32)
    return cv2.resize(bluish, None, fx=scale, fy=scale)


def _draw_fern(canvas: np.ndarray, rng: Rng) -> None:
    """Draw a crystal into `canvas`: a stem with needles at about 60 degrees that shorten towards its tip."""
    root, angle, length = rng.uniform(0, len(canvas), 2), rng.uniform(0, 2 * np.pi), rng.uniform(40, 200)
    light = int(rng.uniform(60, 256))
    strokes = [(root, angle, length)]
    for along in np.sort(rng.random(int(length / 3))):
        turn = rng.choice([-1, 1]) * rng.normal(np.pi / 3, 0.12)
        start = root + along * length * np.array([np.cos(angle), np.sin(angle)])
        strokes.append((start, angle + turn, rng.uniform(0.1, 0.5) * (1 - along) * length))
    for start, heading, reach in strokes:
        end = start + reach * np.array([np.cos(heading), np.sin(heading)])
        cv2.line(canvas, start.astype(int).tolist(), end.astype(int).tolist(), light, 1, cv2.LINE_AA)


def fog(x: Intensities, rng: Rng, density: float, decay: float) -> np.ndarray:
    """Add a random height map and darken to the old range."""
    height, width = x.shape[:2]
    haze = _plasma(max(height, width), decay, rng)[:height, :width, None]
    brightest = float(x.max())
    return (x + density * haze) * (brightest / (brightest + density))


def _plasma(side: int, decay: float, rng: Rng) -> Intensities:
    """Return a diamond-square height map in [0, 1], at least (side, side); noise falls by decay**2 an octave."""
    corners, noise = np.zeros((1, 1)), 1.0
    while len(corners) < side:
        cells = len(corners)
        shakes = rng.uniform(-noise, noise, (3, cells, cells))
        beside, below = np.roll(corners, -1, 1), np.roll(corners, -1, 0)
        middles = (corners + beside + below + np.roll(below, -1, 1)) / 4 + shakes[0]
        heights = np.empty((2 * cells, 2 * cells))
        heights[::2, ::2], heights[1::2, 1::2] = corners, middles
        heights[::2, 1::2] = (corners + beside + middles + np.roll(middles, 1, 0)) / 4 + shakes[1]
        heights[1::2, ::2] = (corners + below + middles + np.roll(middles, 1, 1)) / 4 + shakes[2]
        corners, noise = heights, noise / decay**2
    heights = corners - corners.min()
    return np.asarray(heights / heights.max())
