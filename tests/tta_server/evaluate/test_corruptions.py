"""Laws that all fifteen corruptions keep, and what each promises on its own."""

import colorsys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from tta_server.evaluate.corruptions import CORRUPTIONS, SEVERITIES, corrupt

RANDOM = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "snow",
    "frost",
    "fog",
    "elastic_transform",
)
KEEPS_FLAT = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate")

names = st.sampled_from(CORRUPTIONS)
severities = st.sampled_from(SEVERITIES)
seeds = st.integers(0, 2**40)


@cache
def pictures(count, height, width=None, grey=False):
    """Return letters on two-colour gradients, uint8 (count, 3, height, width), read-only."""
    width = width or height
    rng = np.random.default_rng(0)
    font = ImageFont.load_default(size=0.8 * min(height, width))
    ramp = np.linspace(0, 1, width)[None, :, None] * np.ones((height, 1, 1))
    out = np.empty((count, 3, height, width), np.uint8)
    for index in range(count):
        ends = rng.integers(20, 160, (2, 1 if grey else 3))
        canvas = Image.fromarray(np.broadcast_to(ends[0] + (ends[1] - ends[0]) * ramp, (height, width, 3)).astype("u1"))
        ink = (235, 235, 235) if grey else tuple(int(value) for value in rng.integers(180, 256, 3))
        letter = "ABEGHKMNRSWXZ2358"[index % 17]
        ImageDraw.Draw(canvas).text((width / 2, height / 2), letter, font=font, fill=ink, anchor="mm")
        out[index] = np.asarray(canvas).transpose(2, 0, 1)
    out.setflags(write=False)
    return out


def flat(value, count=1, side=32):
    return np.full((count, 3, side, side), value, np.uint8)


def distance(left, right):
    return np.abs(left.astype(float) - right.astype(float)).mean()


def test_the_names_are_the_published_fifteen_in_order():
    expected = (
        "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog "
        "brightness contrast elastic_transform pixelate jpeg_compression"
    )

    assert tuple(expected.split()) == CORRUPTIONS
    assert SEVERITIES == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(32, 32), (224, 224), (28, 28), (8, 8), (64, 48), (65, 90)])
def test_every_size_gives_uint8_of_the_same_shape_that_is_not_flat(name, shape):
    images = pictures(2, *shape)

    for severity in SEVERITIES:
        output = corrupt(images, name, severity)

        assert output.dtype == np.uint8
        assert output.shape == images.shape
        assert all(np.ptp(image) > 0 for image in output)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_grey_looking_images_are_changed_but_not_flattened(name, severity):
    images = pictures(3, 32, grey=True)

    output = corrupt(images, name, severity)

    assert distance(output, images) > 0
    assert all(np.ptp(image) > 0 for image in output)


@given(name=names, severity=severities, seed=seeds, count=st.integers(0, 4))
@settings(deadline=None, max_examples=60)
def test_a_prefix_of_the_images_gives_a_prefix_of_the_result(name, severity, seed, count):
    images = pictures(4, 32)

    assert np.array_equal(corrupt(images[:count], name, severity, seed), corrupt(images, name, severity, seed)[:count])


@given(name=names, severity=severities, seed=seeds, index=st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_an_image_does_not_depend_on_its_neighbours(name, severity, seed, index):
    images = pictures(4, 32)
    other = 255 - images
    other[index] = images[index]

    assert np.array_equal(corrupt(images, name, severity, seed)[index], corrupt(other, name, severity, seed)[index])


@given(name=names, severity=severities, seed=seeds, strided=st.booleans())
@settings(deadline=None, max_examples=60)
def test_the_input_stays_and_its_memory_layout_does_not_matter(name, severity, seed, strided):
    images = pictures(3, 32).copy()
    given_images = (
        np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if strided else images.copy()
    )

    output = corrupt(given_images, name, severity, seed)

    assert np.array_equal(given_images, images)
    assert not np.shares_memory(output, given_images)
    assert np.array_equal(output, corrupt(images, name, severity, seed))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_random_corruptions_depend_on_seed_and_position(name):
    images = np.repeat(pictures(1, 32), 2, axis=0)

    first, second = corrupt(images, name, 3, seed=0), corrupt(images, name, 3, seed=1)

    assert np.array_equal(first, second) == (name not in RANDOM)
    assert np.array_equal(first[0], first[1]) == (name not in RANDOM)


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "elastic_transform"])
def test_severity_5_is_further_from_the_original_than_severity_1(name, side):
    images = pictures(17, side)

    assert distance(corrupt(images, name, 5), images) > distance(corrupt(images, name, 1), images)


@pytest.mark.parametrize("side", [32, 224])
def test_elastic_transform_bends_a_straight_edge_more_at_severity_5_than_at_1(side):
    # By its constants the whole picture moves *less* at severity 5 (smaller affine jitter); what grows is the wobble.
    images = flat(0, count=16, side=side)
    images[..., side // 2 :] = 255

    def bend(severity):
        edges = corrupt(images, "elastic_transform", severity)[:, 0, side // 4 : -side // 4] / 255
        position = (1 - edges).sum(axis=2)
        return np.abs(np.diff(position, n=2, axis=1)).mean()

    assert bend(5) > 2 * bend(1)


@pytest.mark.parametrize("name", KEEPS_FLAT)
@pytest.mark.parametrize("side", [32, 96])
def test_a_flat_image_stays_flat_under_blurs_and_warps(name, side):
    images = flat(77, side=side)

    for severity in SEVERITIES:
        assert np.array_equal(corrupt(images, name, severity), images)


@pytest.mark.parametrize(("side", "scale"), [(32, 0.10), (96, 0.38)])
def test_gaussian_noise_has_the_published_spread(side, scale):
    residual = (corrupt(flat(128, 8, side), "gaussian_noise", 5) / 255.0) - 128 / 255
    inside = np.clip(np.random.default_rng(1).normal(128 / 255, scale, 10**6), 0, 1).std()

    assert residual.std() == pytest.approx(inside, rel=0.02)  # 24,576 draws: the standard error is 0.5 %


def test_shot_noise_has_the_variance_of_a_poisson_count():
    residual = corrupt(flat(128, 8), "shot_noise", 5) / 255.0

    assert residual.var() == pytest.approx(128 / 255 / 50, rel=0.05)  # five standard errors of 24,576 draws


def test_impulse_noise_replaces_the_published_share_by_both_extremes():
    output = corrupt(flat(128, 8), "impulse_noise", 5)

    assert (output == 0).mean() == pytest.approx(0.035, abs=0.005)  # four standard errors
    assert (output == 255).mean() == pytest.approx(0.035, abs=0.005)
    assert set(np.unique(output)) == {0, 128, 255}


def test_defocus_blur_spreads_a_point_over_a_disk():
    images = flat(0, side=96)
    images[..., 48, 48] = 255

    covered = np.argwhere(corrupt(images, "defocus_blur", 1)[0, 0]) - 48

    assert np.hypot(*covered.T).max() <= 3 + np.sqrt(2)  # radius 3, and one pixel of anti-aliasing each way
    assert len(covered) >= 29  # lattice points within radius 3


def test_motion_blur_moves_a_point_along_one_ray():
    images = flat(0, count=8, side=96)
    images[..., 48, 48] = 255

    output = corrupt(images, "motion_blur", 5)

    for image in output[:, 0]:
        row, column = ndimage.center_of_mass(image)
        assert column <= 47  # the published angles lie within 45 degrees: the trail always points left
        assert abs(row - 48) <= abs(column - 48) + 1


def test_zoom_blur_is_the_mean_of_the_published_zooms():
    images = pictures(2, 32)
    expected = []
    for image in images:
        layers = [image / 255.0]
        for factor in np.arange(1, 1.26, 0.01):
            crop = int(np.ceil(32 / factor))
            top = (32 - crop) // 2
            zoomed = ndimage.zoom(image[:, top : top + crop, top : top + crop] / 255.0, (1, factor, factor), order=1)
            trim = (zoomed.shape[1] - 32) // 2
            layers.append(zoomed[:, trim : trim + 32, trim : trim + 32])
        expected.append(255 * np.mean(layers, axis=0))

    output = corrupt(images, "zoom_blur", 5)

    # Rounding gives 0.5 levels; OpenCV may place samples on a grid of 1/32 pixel.
    assert distance(output, np.stack(expected)) < 1


@pytest.mark.parametrize("name", ["snow", "fog", "frost"])
def test_weather_whitens_a_dark_scene(name):
    images = flat(30, count=4)
    images[..., 0, 0] = 255  # fog scales by the brightest level

    output = corrupt(images, name, 5)

    assert output.mean() > 60
    assert output.std() > 5


def test_fog_keeps_black_images_black():
    assert not corrupt(flat(0), "fog", 5).any()


def test_brightness_raises_the_value_of_hsv():
    images = pictures(1, 32)
    output = corrupt(images, "brightness", 2)

    for before, after in zip(images[0].reshape(3, -1).T[::37], output[0].reshape(3, -1).T[::37], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255.0))
        expected = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.1, 1)))
        assert np.abs(after - expected).max() <= 0.51  # rounding to whole levels


def test_brightness_turns_black_to_grey():
    assert np.array_equal(corrupt(flat(0), "brightness", 5), flat(round(0.3 * 255)))


def test_contrast_shrinks_deviations_from_the_mean_of_each_channel():
    images = pictures(3, 32)

    output = corrupt(images, "contrast", 2).astype(float)

    mean = images.mean(axis=(2, 3), keepdims=True)
    assert np.abs(output - mean - 0.5 * (images - mean)).max() <= 0.51  # rounding to whole levels


def test_pixelate_leaves_blocks():
    output = corrupt(pictures(4, 224), "pixelate", 5)

    assert np.array_equal(output, output[:, :, ::4, ::4].repeat(4, axis=2).repeat(4, axis=3))


@pytest.mark.parametrize(
    ("images", "name", "severity", "seed", "message"),
    [
        (flat(0), "rain", 1, 0, r"unknown corruption 'rain'; use one of gaussian_noise, "),
        (flat(0), "fog", 0, 0, r"severity is 0, expected one of 1, 2, 3, 4, 5"),
        (flat(0), "fog", 6, 0, r"severity is 6, expected"),
        (flat(0), "fog", 1, -1, r"seed is -1, expected an integer of at least 0"),
        (flat(0)[0], "fog", 1, 0, r"images have shape \(3, 32, 32\), expected \(N, 3, H, W\)"),
        (flat(0).transpose(0, 2, 3, 1), "fog", 1, 0, r"images have shape \(1, 32, 32, 3\), expected \(N, 3, H, W\)"),
        (flat(0)[:, :1], "fog", 1, 0, r"images have shape \(1, 1, 32, 32\), expected"),
        (flat(0, side=7), "fog", 1, 0, r"images have shape \(1, 3, 7, 7\), expected .* at least 8"),
        (flat(0) / 255, "fog", 1, 0, r"images have dtype float64, expected uint8 in 0\.\.255"),
    ],
)
def test_a_bad_argument_is_refused_with_what_would_be_right(images, name, severity, seed, message):
    with pytest.raises(ValueError, match=message):
        corrupt(images, name, severity, seed)
