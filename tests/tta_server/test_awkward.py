"""Files that are no plain JPEG or PNG get the right answer, or the right refusal, wherever images are read."""

import base64
import logging
import struct
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from load_tests.payloads import jpeg_of_scans, png_with, tiff_of
from tests.tta_server.pictures import encoded, scene
from tta_server import models
from tta_server.calibrate.folder import images_in, read
from tta_server.errors import BadRequest, TooLarge, TTAError, UnsupportedMedia
from tta_server.models import preprocess
from tta_server.models.preprocess import Preprocess
from tta_server.runtime.images.codec import SUFFIXES, Upload, open_image
from tta_server.runtime.images.png_chunks import only_the_picture

FOLDER = Path(__file__).with_name("awkward")
PLAIN = Path(__file__).parents[2] / "docs/frame.png"
REFUSED = ("jpeg_no_EOI.jpg",)
GOOD = sorted(
    path.name
    for path in FOLDER.iterdir()
    if path.suffix != ".md" and path.name not in REFUSED and (path.suffix != ".avif" or features.check("avif"))
)
TWELVE_BITS = "grey16_12bit_sensor.png"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damage that the picture survives


@pytest.fixture(scope="module")
def model() -> models.Model:
    return models.load("glyphs")


def fit(model: models.Model, name: str) -> Preprocess:
    shape = model.preprocess
    return (
        Preprocess(shape.size, shape.resize, channels=shape.channels, sixteen_bit=12) if name == TWELVE_BITS else shape
    )


def seen(model: models.Model, pixels: np.ndarray) -> tuple[str, float]:
    scores = model.backbone.forward(torch.from_numpy(pixels[None]).float() / 255).logits.softmax(1)[0]
    return model.labels[int(scores.argmax())], float(scores.max())


def decoded(path: Path, how: Preprocess) -> np.ndarray:
    return open_image(Upload("the body", path.read_bytes()), 16_000_000).decode(how)


@pytest.mark.parametrize("name", GOOD)
def test_a_picture_is_recognised_in_whatever_file_it_comes(model, name):
    assert seen(model, decoded(PLAIN, model.preprocess))[0] == "Z"

    label, probability = seen(model, decoded(FOLDER / name, fit(model, name)))

    assert (label, probability > 0.95) == ("Z", True)


@pytest.mark.parametrize("name", GOOD)
def test_folders_are_read_as_requests_are(model, name):
    assert FOLDER / name in images_in(FOLDER)
    assert np.array_equal(read(FOLDER / name, model.preprocess), decoded(FOLDER / name, model.preprocess))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_each_format_of_the_list_is_read_and_so_are_its_files(form, tmp_path):
    (ending,) = [each for each in SUFFIXES if each.lstrip(".") == form.lower()]
    path = tmp_path / f"a{ending}"
    path.write_bytes(encoded(scene(), form))

    assert images_in(tmp_path) == [path]
    assert read(path, Preprocess((8, 8))).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ((FOLDER / "jpeg_no_EOI.jpg").read_bytes(), BadRequest, "truncated"),
        (base64.b64encode(PLAIN.read_bytes()), UnsupportedMedia, "looks like base64 text"),
        (b"<html><body>not found</body></html>", UnsupportedMedia, "looks like a page of HTML or XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", UnsupportedMedia, "looks like a Git LFS pointer"),
        (encoded(scene(), "GIF"), UnsupportedMedia, "looks like a GIF"),
        (jpeg_of_scans(100), TooLarge, "more than 20 scans"),
        (encoded(scene(), "JPEG") + bytes(16_000_000), TooLarge, "one a pixel of limits.max_pixels"),
        (tiff_of(jpeg_of_scans(100), 64), BadRequest, "damaged"),
        (encoded(Image.fromarray(np.eye(8, dtype=np.float32)), "TIFF"), BadRequest, "floating"),
    ],
    ids=["cut off", "base64", "html", "git lfs", "gif", "scans", "much data", "scans in a TIFF", "floats"],
)  # fmt: skip
def test_what_is_refused_is_told_what_it_looks_like(data, error, said):
    with pytest.raises(error, match=said):
        open_image(Upload("the body", data), 16_000_000).decode(Preprocess((8, 8)))


def test_a_jpeg_of_as_many_scans_as_encoders_make_is_read():
    assert open_image(Upload("the body", jpeg_of_scans(12))).decode(Preprocess((8, 8))).shape == (3, 8, 8)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"tEXt", b"gIFt"])
def test_nothing_of_a_png_but_its_picture_is_looked_at(kind):
    plain = png_with(b"tIME", b"1234567")
    assert only_the_picture("it", png_with(kind, b"\xff" * 2_000_000)) == only_the_picture("it", plain)


def test_what_a_png_shows_does_not_depend_on_what_is_left_out():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(scene().convert("P"), exif=exif, transparency=3, pnginfo=None)

    assert only_the_picture("it", data) == data


@pytest.mark.parametrize(
    ("count", "size", "refused"),
    [(999, 0, False), (1100, 0, True), (1100, 300, False), (9000, 300, False), (10_001, 300, True)],
)
def test_a_png_in_as_many_pieces_as_encoders_make_passes_and_one_in_too_many_or_too_small_ones_does_not(
    count, size, refused
):
    piece = struct.pack(">I4s", size, b"IDAT") + bytes(size + 4)
    data = png_with(b"tEXt", b"")[:33] + piece * count

    with pytest.raises(BadRequest, match="pieces; save it anew") if refused else nullcontext():
        assert only_the_picture("it", data) == data


@pytest.mark.parametrize(
    ("setting", "highest", "white"), [("full", 65535, 255), (12, 4095, 255), (10, 1023, 255), ("auto", 4095, 255),
                                      ("auto", 1023, 255), ("auto", 65535, 255), ("full", 4095, 15), (10, 4095, 255)]
)  # fmt: skip
def test_sixteen_bits_hold_as_many_as_the_setting_says(setting, highest, white):
    ramp = Image.fromarray(np.linspace(0, highest, 256).reshape(16, 16).astype(np.uint16))

    pixels = Preprocess((16, 16), sixteen_bit=setting)(ramp)

    assert (int(pixels.min()), int(pixels.max())) == (0, white)


def test_images_that_come_out_nearly_black_are_warned_of_once(caplog):
    preprocess._warn_of_small_values.cache_clear()
    with caplog.at_level(logging.WARNING):
        for setting in ("auto", "full", "full"):
            decoded(FOLDER / TWELVE_BITS, Preprocess((8, 8), sixteen_bit=setting))

    assert [record.message.count("sixteen_bit") for record in caplog.records] == [1]


def test_another_number_of_bits_is_refused():
    with pytest.raises(ValueError, match="must be full, 12, 10 or auto"):
        Preprocess((8, 8), sixteen_bit=14)


def test_no_piece_of_a_png_makes_more_than_an_error_for_the_caller():
    for length in (0, 2**31 - 1, 2**32 - 1):
        data = png_with(b"tEXt", b"x")[:33] + length.to_bytes(4, "big") + b"tEXt"
        with pytest.raises(TTAError):
            open_image(Upload("the body", data)).decode(Preprocess((8, 8)))
