import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from tta_server.models import Preprocess

FAST = settings(deadline=None, max_examples=60)
# Pillow's names for what a camera or a scanner may send
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV")

sides = st.integers(1, 80)
sizes = st.tuples(sides, sides)
interpolations = st.sampled_from(["nearest", "bilinear", "bicubic"])
seeds = st.integers(0, 999)


def noise(size: tuple[int, int], seed: int, mode: str = "RGB") -> Image.Image:
    """Return an image of `size` (width, height) whose every pixel differs."""
    generator = np.random.default_rng(seed)
    width, height = size
    bands = {"LA": 2, "RGBA": 4, "CMYK": 4, "RGB": 3, "YCbCr": 3, "HSV": 3}.get(mode, 1)
    image = Image.frombytes(mode if bands > 1 else "L", size, generator.bytes(width * height * bands))
    if mode != "P":
        return image.convert(mode)
    image = image.copy()
    image.putpalette(generator.bytes(768))
    return image


def torchvision_pixels(image: Image.Image, resize: int, size: tuple[int, int], interpolation: str) -> np.ndarray:
    transform = Compose([Resize(resize, InterpolationMode(interpolation)), CenterCrop(size)])
    return np.asarray(transform(image.convert("RGB"))).transpose(2, 0, 1)


@FAST
@given(
    size=sizes,
    crop=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    extra=st.integers(0, 9),
    interpolation=interpolations,
    mode=st.sampled_from(MODES),
    seed=seeds,
)
def test_pixels_equal_torchvisions_resize_and_centre_crop(size, crop, extra, interpolation, mode, seed):
    image, resize = noise(size, seed, mode), max(crop) + extra

    pixels = Preprocess(crop, resize=resize, interpolation=interpolation)(image)

    np.testing.assert_array_equal(pixels, torchvision_pixels(image, resize, crop, interpolation))


@FAST
@given(size=sizes, target=st.tuples(sides, sides), interpolation=interpolations, seed=seeds)
def test_without_a_crop_pixels_equal_torchvisions_resize(size, target, interpolation, seed):
    image = noise(size, seed)
    expected = np.asarray(Resize(target, InterpolationMode(interpolation))(image)).transpose(2, 0, 1)

    np.testing.assert_array_equal(Preprocess(target, interpolation=interpolation)(image), expected)


@FAST
@given(size=sizes, whole=st.tuples(st.integers(20, 40), st.integers(20, 40)), seed=seeds)
def test_a_whole_image_may_be_resized_before_the_crop(size, whole, seed):
    image, transform = noise(size, seed), Compose([Resize(whole), CenterCrop((11, 20))])

    pixels = Preprocess((11, 20), resize=whole)(image)

    np.testing.assert_array_equal(pixels, np.asarray(transform(image)).transpose(2, 0, 1))


@pytest.mark.parametrize(("odd", "first"), [("even", [2, 0, 1]), ("first", [1, 0, 1])])
def test_where_an_odd_number_is_cut_off_the_place_is_as_asked(odd, first):
    image = Image.fromarray(np.arange(6, dtype=np.uint8)[None].repeat(6, 0))

    found = [
        Preprocess((6, 3), odd=odd, resize=6)(image),
        *(Preprocess((6, n), odd=odd, resize=6)(image) for n in (5, 4)),
    ]

    assert [int(pixels[0, 0, 0]) for pixels in found] == first


@FAST
@given(size=sizes, seed=seeds)
def test_an_image_of_the_right_size_is_passed_on_bit_for_bit(size, seed):
    image = noise(size, seed)

    np.testing.assert_array_equal(Preprocess(size[::-1])(image), np.asarray(image).transpose(2, 0, 1))


@FAST
@given(size=sizes, mode=st.sampled_from((*MODES, "I;16", "I", "PA")), channels=st.sampled_from([1, 3]), seed=seeds)
def test_the_result_is_contiguous_and_can_be_written_to(size, mode, channels, seed):
    image = noise(size, seed, mode) if mode in MODES else Image.new(mode, size)
    for target in ((5, 7), size[::-1]):
        pixels = Preprocess(target, channels=channels)(image)

        assert pixels.shape == (channels, *target)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable


@FAST
@given(
    size=sizes, seed=seeds, mode=st.sampled_from(["RGB", "L", "RGBA", "P", "I;16"]), channels=st.sampled_from([1, 3])
)
def test_the_image_given_is_not_changed_and_not_shared(size, seed, mode, channels):
    image = Image.new(mode, size) if mode == "I;16" else noise(size, seed, mode)
    before = image.tobytes()

    Preprocess(size[::-1], channels=channels)(image)[:] = 77

    assert image.tobytes() == before


@FAST
@given(size=sizes, seed=seeds, mode=st.sampled_from(["RGB", "L", "CMYK"]))
def test_one_channel_is_pillows_grey(size, seed, mode):
    image = noise(size, seed, mode)

    np.testing.assert_array_equal(Preprocess(size[::-1], channels=1)(image)[0], np.asarray(image.convert("L")))


@FAST
@given(size=sizes, seed=seeds, mode=st.sampled_from(["I;16", "I;16B", "I"]), channels=st.sampled_from([1, 3]))
def test_sixteen_bit_grey_keeps_its_high_bits(size, seed, mode, channels):
    values = np.random.default_rng(seed).integers(0, 65536, size[::-1]).astype(np.uint16)
    data = values.astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]).tobytes()
    image = Image.frombytes(mode, size, data)

    pixels = Preprocess(size[::-1], channels=channels)(image)

    np.testing.assert_array_equal(pixels, np.broadcast_to(values >> 8, pixels.shape))


def test_a_sixteen_bit_png_keeps_its_high_bits():
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)).save(file, "PNG")

    pixels = Preprocess((1, 5))(Image.open(file))

    assert pixels[0, 0].tolist() == [0, 0, 1, 128, 255]


def test_values_beyond_sixteen_bits_are_clipped_not_wrapped():
    image = Image.fromarray(np.array([[-1, 65536, 2**31 - 1, -(2**31)]], dtype=np.int32))

    assert Preprocess((1, 4))(image)[0, 0].tolist() == [0, 255, 255, 0]


def test_transparency_is_dropped_and_not_blended():
    image = Image.new("RGBA", (2, 2), (200, 100, 50, 0))

    assert Preprocess((2, 2))(image)[:, 0, 0].tolist() == [200, 100, 50]


def test_a_palette_with_transparency_keeps_its_colours():
    file = io.BytesIO()
    noise((6, 4), 0, "P").save(file, "PNG", transparency=3)
    image = Image.open(file)

    np.testing.assert_array_equal(
        Preprocess((4, 6))(image), np.asarray(noise((6, 4), 0, "P").convert("RGB")).transpose(2, 0, 1)
    )


# What EXIF 2.32, tag 0x0112, says of where row 0 and column 0 of the file are, as numpy operations on (H, W).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_exif_orientation_is_applied(orientation, mode):
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    image = Image.fromarray(values) if mode == "I;16" else Image.fromarray((values >> 8).astype(np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    expected = UPRIGHT[orientation](values >> 8)

    pixels = Preprocess(expected.shape)(Image.open(file))

    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, pixels.shape))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    noise((4, 3), 0).save(file, "PNG", exif=exif)

    np.testing.assert_array_equal(Preprocess((3, 4))(Image.open(file)), Preprocess((3, 4))(noise((4, 3), 0)))


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=60), order=st.sampled_from([b"II*\0", b"MM\0*", b""]))
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow says that the EXIF data is damaged
def test_damaged_exif_data_does_not_spoil_the_picture(data, order):
    file, plain = io.BytesIO(), noise((3, 3), 0)
    plain.save(file, "PNG", exif=b"Exif\0\0" + order + data)

    pixels = Preprocess((3, 3))(Image.open(file))

    # the data may by chance say that the picture lies on its side
    turned = [turn(np.asarray(plain)) for turn in UPRIGHT.values()]
    assert any(np.array_equal(pixels.transpose(1, 2, 0), other) for other in turned)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_damaged_picture_is_not_taken_for_damaged_exif_data(kind):
    file = io.BytesIO()
    noise((40, 40), 0).save(file, kind)

    with pytest.raises(OSError, match="truncated"):
        Preprocess((40, 40))(Image.open(io.BytesIO(file.getvalue()[:900])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"channels": 4}, "channels must be 1 or 3, got 4"),
        ({"interpolation": "lanczos"}, "interpolation must be one of nearest, bilinear, bicubic, got 'lanczos'"),
        ({"size": (0, 8)}, r"size must be positive, got \(0, 8\)"),
        ({"size": (8, -1)}, r"size must be positive, got \(8, -1\)"),
        ({"resize": 7}, r"resize must be at least the crop \(8, 8\), got 7"),
        ({"size": (8, 16), "resize": 15}, r"resize must be at least the crop \(8, 16\), got 15"),
        ({"size": (8, 16), "resize": (8, 15)}, r"resize must be at least the crop \(8, 16\), got \(8, 15\)"),
        ({"odd": "last"}, "odd must be even or first, got 'last'"),
        ({"resize": 0}, "resize must be at least"),
        (
            {"mean": (123.7, 116.3, 103.5)},
            r"mean must be in \[0, 1\], got 123.7, 116.3, 103.5; divide by 255 what is of",
        ),
        (
            {"std": (58.4, 57.1, 57.4)},
            r"std must be in \(0, 2\], got 58.4, 57.1, 57.4; divide by 255 what is of levels",
        ),
        ({"mean": [0.5, -0.1, 0.5]}, r"mean must be in \[0, 1\], got 0.5, -0.1, 0.5$"),
        ({"mean": (0.5, math.nan, 0.5)}, r"mean must be in \[0, 1\], got 0.5, nan, 0.5$"),
        ({"std": (0.2, 0.0, 0.2)}, r"std must be in \(0, 2\], got 0.2, 0, 0.2$"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(**{"size": (8, 8), **changes})


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # images in [0, 1] as they are
        ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),  # levels as they are
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # [-1, 1]
        ((1.0,), (1.0000000000000002,)),
        (np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])),
    ],
)
def test_every_usual_mean_and_deviation_is_taken(mean, std):
    assert Preprocess((8, 8), mean=mean, std=std).mean is mean


def test_the_input_shape_is_channels_first():
    assert Preprocess((8, 9), channels=1).input_shape == (1, 8, 9)
