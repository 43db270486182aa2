"""Files become images, or an error that says what is wrong with them."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from tests.tta_server.pictures import encoded, good_files, png, scene
from tta_server.errors import BadRequest, TooLarge, TTAError
from tta_server.models.preprocess import Preprocess
from tta_server.runtime.images import png_chunks
from tta_server.runtime.images.codec import Upload, open_image

TRANSFORM = Preprocess((32, 32))
MAX_PIXELS = 16_000_000
GOOD = good_files()


def read(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    return open_image(Upload("the body", data), max_pixels).decode(TRANSFORM)


def header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and has hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", GOOD)
def test_every_usual_kind_of_file_is_read(kind):
    pixels = read(GOOD[kind])

    assert (pixels.shape, pixels.dtype) == ((3, 32, 32), np.uint8)


@pytest.mark.parametrize("kind", ["jpeg", "rgba", "palette", "grey png"])
def test_a_file_is_read_as_its_pixels(kind):
    expected = TRANSFORM(Image.open(io.BytesIO(GOOD[kind])).convert("RGB"))

    assert np.array_equal(read(GOOD[kind]), expected)


def test_sixteen_bits_are_scaled_and_not_clipped():
    pixels = read(GOOD["16 bit"]).astype(int)

    assert pixels.min() < 10
    assert pixels.max() > 245
    assert abs(pixels.mean() - 127.5) < 2  # the file is a ramp over all values


def test_a_picture_taken_sideways_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = scene(32, 32)

    turned = read(encoded(upright, exif=exif))

    assert np.array_equal(turned, TRANSFORM(upright.transpose(Image.Transpose.ROTATE_270)))


def as_text(turn: int, how: str) -> PngInfo:
    """Return texts of a PNG that say which way is up, as programs wrote it before there was a chunk for it."""
    info = PngInfo()
    if how == "xmp":
        xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="{turn}"/></x:xmpmeta>'
        info.add_itxt("XML:com.adobe.xmp", xmp)
        return info
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    data = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    info.add_text("Raw profile type exif", f"\nexif\n{len(data):8}\n{data.hex()}\n", zip=how == "zipped")
    return info


@pytest.mark.parametrize("how", ["plain", "zipped", "xmp"])
@pytest.mark.parametrize("turn", [3, 6, 8])
def test_a_png_whose_texts_say_that_it_lies_on_its_side_is_turned_upright(how, turn):
    file = io.BytesIO()
    scene().save(file, "PNG", pnginfo=as_text(turn, how))
    file.seek(0)
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        assert np.asarray(upright).shape != np.asarray(image).shape or turn == 3

    assert np.array_equal(read(file.getvalue()), TRANSFORM(upright))


@pytest.mark.parametrize("damage", ["long", "bomb", "torn", "none"])
def test_texts_that_cannot_say_so_cost_no_picture(damage):
    info = as_text(6, "plain")
    if damage == "long":
        info = PngInfo()
        info.add_text("Raw profile type exif", "\nexif\n 1\n" + "00" * 2**20)
    if damage == "bomb":
        info = PngInfo()
        info.add_text("Raw profile type exif", "\nexif\n 1\n" + "00" * 2**20, zip=True)
    if damage == "none":
        info = PngInfo()
        info.add_text("Raw profile type exif", "no profile")
    file = io.BytesIO()
    scene().save(file, "PNG", pnginfo=info)
    data = file.getvalue()
    if damage == "torn":
        place = data.index(b"\nexif\n")
        data = data[:place] + b"x" + data[place + 1 :]  # which its checksum does not fit

    assert np.array_equal(read(data), TRANSFORM(scene()))


def test_of_many_texts_few_are_looked_at_and_an_unknown_way_to_compress_costs_no_picture(monkeypatch):
    inflated = []
    inflate = png_chunks._inflates_to_little
    monkeypatch.setattr(png_chunks, "_inflates_to_little", lambda data: inflated.append(data) or inflate(data))
    info = PngInfo()
    for _ in range(500):
        info.add_text("Raw profile type exif", "0" * 65_000, zip=True)
    odd = PngInfo()
    odd.add(b"zTXt", b"Raw profile type exif\0\1" + zlib.compress(b"x"))

    for texts in (info, odd):
        file = io.BytesIO()
        scene().save(file, "PNG", pnginfo=texts)
        assert np.array_equal(read(file.getvalue()), TRANSFORM(scene()))
    assert len(inflated) == 2


def test_an_empty_file_is_said_to_be_empty():
    with pytest.raises(BadRequest, match="the body is empty"):
        read(b"")


@pytest.mark.parametrize(
    "data",
    [
        b"hello, world",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        encoded(scene(), "GIF"),
        encoded(scene(), "ICO"),
        encoded(scene(), "PPM"),
    ],
    ids=["text", "jpeg magic", "png magic", "svg", "eps", "gif", "ico", "ppm"],
)
def test_a_format_that_is_not_listed_is_refused(data):
    with pytest.raises(TTAError, match=r"JPEG|damaged") as error:
        read(data)

    assert error.value.status in (400, 415)


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "png", "16 bit", "4000x3000"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_damaged(kind, share):
    data = GOOD[kind]

    with pytest.raises(BadRequest, match="the body is a damaged image"):
        read(data[: int(len(data) * share)])


@pytest.mark.parametrize(("width", "height"), [(4001, 4000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_too_many_pixels_are_refused_from_the_header_alone(width, height):
    upload = Upload("the body", header(width, height))

    with pytest.raises(TooLarge, match=f"the body is {width} x {height}, more than the 16000000 pixels allowed"):
        open_image(upload, MAX_PIXELS)


def test_as_many_pixels_as_allowed_are_read():
    assert read(png(40, 30), max_pixels=1200).shape == (3, 32, 32)

    with pytest.raises(TooLarge):
        read(png(40, 30), max_pixels=1199)


@pytest.mark.parametrize(("width", "height"), [(1, 51), (5100, 100), (1, 16_000_000)])
def test_a_sliver_is_refused_before_it_is_blown_up(width, height):
    upload = Upload("the body", header(width, height))

    with pytest.raises(BadRequest, match=f"{width} x {height}; one side may be at most 50 times the other"):
        open_image(upload, MAX_PIXELS)


def test_a_narrow_image_is_still_an_image():
    assert open_image(Upload("the body", png(50, 1))).decode(Preprocess((32, 32), resize=40)).shape == (3, 32, 32)


def outcome(data: bytes) -> None:
    try:
        assert read(data).shape == (3, 32, 32)
    except TTAError as error:
        assert 400 <= error.status < 500  # noqa: PT017 (either outcome is right)
        assert "\n" not in str(error)  # noqa: PT017


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", header(8, 8)]))
def test_no_bytes_raise_anything_but_an_error_for_the_caller(data, start):
    outcome(start + data)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["jpeg", "progressive jpeg", "cmyk jpeg", "png", "palette", "16 bit", "rgba", "one bit"]),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.floats(0.5, 1),
)
def test_no_damage_raises_anything_but_an_error_for_the_caller(kind, damage, cut):
    data = bytearray(GOOD[kind])
    for place, value in damage:
        data[int(place * len(data))] = value

    outcome(bytes(data[: int(len(data) * cut)]))


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 80), value=st.integers(0, 255))
def test_no_damage_to_a_header_raises_anything_but_an_error_for_the_caller(place, value):
    data = bytearray(GOOD["jpeg"] if value % 2 else GOOD["png"])
    data[place] = value

    outcome(bytes(data))
