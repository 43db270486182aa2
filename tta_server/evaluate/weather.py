"""Snow, frost and fog; sources and departures in `corruptions`."""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from tta_server.evaluate.distort import Intensities, Rng, blur, smear, zoom

SMALL_SIDE = 64  # up to here the CIFAR constants serve
_FROST_SIDE = 640  # pixels: as large as the photographs


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
    """Mix the scene with a random crop of one of the drawn panes."""
    height, width = x.shape[:2]
    # For CIFAR the authors shrink their photographs to a fifth.
    pane = _frosted(_PANES[rng.integers(len(_PANES))], 0.2 if min(height, width) <= SMALL_SIDE else 1.0)
    top, left = (rng.integers(max(len(pane) - side, 1)) for side in (height, width))
    crop = pane.take(np.arange(top, top + height), 0, mode="wrap")
    return scene * x + ice * crop.take(np.arange(left, left + width), 1, mode="wrap")


class _Pane(NamedTuple):
    """An iced window.

    Attributes:
        seed: Of its drawing.
        colour: Mean level of red, green and blue.
        spread: Standard deviation of its levels.
        slope: How fast power falls with frequency, as its exponent: 2 gives clouds, 1 grain.
        ferns: Share of crystals in its variance; the rest is clouds.
    """

    seed: int
    colour: tuple[int, int, int]
    spread: float
    slope: float
    ferns: float


# Fitted to the colour and to the roughness, at both sizes, of each of the five photographs that the authors draw from,
# the second and third of which look alike: test_corruptions has the figures.
_PANES = (
    _Pane(1, (70, 148, 164), 17, 2.0, 0.2),
    _Pane(2, (198, 203, 212), 20, 2.0, 0.2),
    _Pane(3, (198, 203, 212), 20, 2.0, 0.2),
    _Pane(4, (144, 159, 172), 26, 1.6, 0.4),
    _Pane(5, (102, 113, 125), 32, 1.6, 0.4),
)


@cache
def _frosted(pane: _Pane, scale: float) -> np.ndarray:
    """Return the drawing of a pane, float32 (side, side, 3) in [0, 1], the same in every process."""
    rng = np.random.default_rng(pane.seed)
    frequencies = np.hypot(np.fft.fftfreq(_FROST_SIDE)[:, None], np.fft.rfftfreq(_FROST_SIDE))
    frequencies[0, 0] = np.inf
    noise = np.fft.rfft2(rng.standard_normal((_FROST_SIDE, _FROST_SIDE)))
    clouds = np.fft.irfft2(noise * frequencies ** (-pane.slope / 2))
    needles = np.zeros(clouds.shape, np.uint8)
    for _ in range(300):
        _draw_fern(needles, rng)
    ferns = blur(needles / 255, 0.7)
    parts = ((clouds, 1 - pane.ferns), (ferns, pane.ferns))
    ice = sum(np.sqrt(share) * (part - part.mean()) / part.std() for part, share in parts)
    levels = np.array(pane.colour) + pane.spread * np.asarray(ice)[..., None]
    return cv2.resize(np.clip(levels / 255, 0, 1).astype(np.float32), None, fx=scale, fy=scale)


def _draw_fern(canvas: np.ndarray, rng: Rng) -> None:
    """Draw a crystal into `canvas`: a stem with needles at about 60 degrees that shorten towards its tip."""
    root, angle, length = rng.uniform(0, len(canvas), 2), rng.uniform(0, 2 * np.pi), rng.uniform(30, 120)
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
