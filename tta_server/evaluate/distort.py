"""The corruptions that need no weather: noise, blur and digital damage; sources and departures in `corruptions`."""

import io
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

Intensities = NDArray[np.floating[Any]]
Rng = np.random.Generator

# Below, `x` is one image: float32 (H, W, 3), contiguous, in [0, 1]. Results may leave that range; `corrupt` clips.


def levels(x: Intensities) -> np.ndarray:
    """Clip to [0, 1] and round to levels, uint8."""
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


# --- noise ---


def gaussian_noise(x: Intensities, rng: Rng, scale: float) -> np.ndarray:
    """Add normal noise of standard deviation `scale`."""
    return x + scale * rng.standard_normal(x.shape, dtype=np.float32)


def shot_noise(x: Intensities, rng: Rng, photons: float) -> np.ndarray:
    """Count `photons` per full level, as a Poisson draw."""
    return rng.poisson(x * photons) / photons


def impulse_noise(x: Intensities, rng: Rng, share: float) -> np.ndarray:
    """Replace a `share` of the values by 0 or 1, half each."""
    draw = rng.random(x.shape)
    return np.where(draw < share / 2, 0, np.where(draw < share, 1, x))


# --- blur ---


def defocus_blur(x: Intensities, rng: Rng, radius: float, softness: float) -> np.ndarray:
    """Spread each point over a disk of `radius` pixels."""
    return cv2.filter2D(x, -1, _disk(radius, softness))


@cache
def _disk(radius: float, softness: float) -> np.ndarray:
    """Return a disk of `radius` pixels whose rim is softened by a Gaussian of `softness` pixels; it sums to 1."""
    margin = 1 if radius <= 8 else 2
    reach = int(np.ceil(radius)) + margin
    steps = np.arange(-reach, reach + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.float32)
    disk /= disk.sum()
    return cv2.GaussianBlur(disk, (2 * margin + 1, 2 * margin + 1), softness, borderType=cv2.BORDER_CONSTANT)


def glass_blur(x: Intensities, rng: Rng, sigma: float, reach: int, rounds: int) -> np.ndarray:
    """Scatter pixels by up to `reach`, between two blurs of `sigma` pixels."""
    height, width = x.shape[:2]
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    targets = (rows[:, None] * width + columns).ravel()
    origin = list(range(height * width))
    for _ in range(rounds):
        down, right = rng.integers(-reach, reach, (2, targets.size))
        # The authors swap two NumPy views, which only copies the second onto the first; so do we.
        for target, source in zip(targets.tolist(), (targets + down * width + right).tolist(), strict=True):
            origin[target] = origin[source]
    shuffled = blur(x, sigma).reshape(-1, 3)[origin].reshape(x.shape)
    return blur(shuffled, sigma)


def blur(x: Intensities, sigma: float) -> np.ndarray:
    """Blur by a Gaussian of `sigma` pixels, cut at four, with the border repeated."""
    size = 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(x, (size, size), sigma, borderType=cv2.BORDER_REPLICATE) if size > 1 else x


def motion_blur(x: Intensities, rng: Rng, radius: int, sigma: float) -> np.ndarray:
    """Smear along a random ray within 45 degrees of horizontal."""
    return smear(x, radius, sigma, rng.uniform(-45, 45))


def smear(x: Intensities, radius: int, sigma: float, angle_deg: float) -> np.ndarray:
    """Average along one ray of 2 * radius + 1 pixels by half a Gaussian; 0 degrees looks right, 90 down."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    angle = np.deg2rad(angle_deg)
    columns = np.ceil(steps * np.cos(angle) - 0.5).astype(int)
    rows = np.ceil(steps * np.sin(angle) - 0.5).astype(int)
    left, top = int(columns.min()), int(rows.min())
    kernel = np.zeros((rows.max() - top + 1, columns.max() - left + 1))
    np.add.at(kernel, (rows - top, columns - left), weights / weights.sum())
    return cv2.filter2D(x, -1, kernel, anchor=(-left, -top), borderType=cv2.BORDER_REPLICATE)


def zoom_blur(x: Intensities, rng: Rng, stop: float, step: float) -> np.ndarray:
    """Average the zooms from 1 up to `stop`, and `x`."""
    factors = np.arange(1, stop, step)
    return (x + sum(zoom(x, factor) for factor in factors)) / (len(factors) + 1)


def zoom(x: Intensities, factor: float) -> np.ndarray:
    """Enlarge the middle of `x` to the size of `x`, with the authors' rounding to whole pixels."""
    height, width = x.shape[:2]
    matrix = np.zeros((2, 3))
    for axis, side in enumerate((width, height)):
        crop = int(np.ceil(side / factor))
        zoomed = round(crop * factor)
        scale = (crop - 1) / (zoomed - 1)
        matrix[axis, axis] = scale
        matrix[axis, 2] = (side - crop) // 2 + (zoomed - side) // 2 * scale
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(x, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


# --- digital ---


def brightness(x: Intensities, rng: Rng, shift: float) -> np.ndarray:
    """Raise HSV's value by `shift`."""
    value = x.max(axis=2, keepdims=True)  # of HSV: raising it scales a colour, and makes black grey
    raised = np.minimum(value + shift, 1)
    return np.asarray(np.where(value > 0, x * (raised / np.maximum(value, 1 / 255)), raised))


def contrast(x: Intensities, rng: Rng, factor: float) -> np.ndarray:
    """Scale deviations from each channel's mean by `factor`."""
    mean: Intensities = x.mean(axis=(0, 1))
    return mean + factor * (x - mean)


def elastic_transform(x: Intensities, rng: Rng, strength: float, smoothness: float, jitter: float) -> np.ndarray:
    """Jitter an affine frame, then wobble pixels; all three lengths are shares of the side."""
    height, width = x.shape[:2]
    side = min(height, width)
    corners = np.array([[1, 1], [1, -1], [-1, -1]]) * (side // 3) + [width // 2, height // 2]
    moved = corners + side * rng.uniform(-jitter, jitter, corners.shape)
    affine = cv2.getAffineTransform(corners.astype(np.float32), moved.astype(np.float32))
    slanted = cv2.warpAffine(x, affine, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    wobble = side * strength * _smooth(rng.uniform(-1, 1, (2, height, width)), side * smoothness)
    rows, columns = (np.indices((height, width)) + wobble).astype(np.float32)
    return cv2.remap(slanted, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _smooth(fields: np.ndarray, sigma: float) -> np.ndarray:
    """Blur each field (2, H, W) by a Gaussian with mirrored borders, which is a product in the cosine basis."""
    height, width = fields.shape[1:]
    rows, columns = (np.exp(-0.5 * (np.pi * sigma * np.arange(side) / side) ** 2) for side in (height, width))
    spectrum = fft.dctn(fields, axes=(1, 2))
    return np.asarray(fft.idctn(spectrum * rows[:, None] * columns, axes=(1, 2)))


def pixelate(x: Intensities, rng: Rng, share: float) -> np.ndarray:
    """Shrink to a `share` of the side by box averages, and enlarge."""
    height, width = x.shape[:2]
    small = Image.fromarray(levels(x)).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / np.float32(255)


def jpeg_compression(x: Intensities, rng: Rng, quality: int) -> np.ndarray:
    """Encode as JPEG at `quality`, and decode."""
    file = io.BytesIO()
    Image.fromarray(levels(x)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / np.float32(255)
