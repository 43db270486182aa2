"""Grey TIFF files of every kind: shown as they are meant, or refused in words."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tta_server.models import Preprocess

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
UNSIGNED, SIGNED, FLOATS = 1, 2, 3


def tiff(data: np.ndarray, bits: int, photometric: int = BLACK_IS_ZERO, kind: int = UNSIGNED) -> Image.Image:
    """Return a grey TIFF of 16 x 16 pixels, opened.

    Args:
        data: As the file has it; its order of bytes is the file's.
        bits: Of each pixel.
        photometric: Which levels are white.
        kind: What its numbers are.
    """
    order = ">" if data.dtype.byteorder == ">" else "<"
    tags = {
        256: 16,
        257: 16,
        258: bits,
        259: 1,
        262: photometric,
        273: 134,
        277: 1,
        278: 16,
        279: data.nbytes,
        339: kind,
    }
    file = struct.pack(f"{order}2sHIH", b"MM" if order == ">" else b"II", 42, 8, len(tags))
    file += b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()) + bytes(4)
    assert len(file) == tags[273]
    return Image.open(io.BytesIO(file + data.tobytes()))


def packed(levels: np.ndarray) -> np.ndarray:
    """Return two numbers of 12 bits in each three bytes."""
    first, second = levels.reshape(-1, 2).astype(np.uint16).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8)


SHOWN = {
    "8 bits": tiff(LEVELS, 8),
    "8 bits, white is 0": tiff(255 - LEVELS, 8, WHITE_IS_ZERO),
    "16 bits": tiff(LEVELS.astype("<u2") * 257, 16),
    "16 bits, the other order": tiff((LEVELS.astype(">u2") * 257).astype(">u2"), 16),
    "16 bits, white is 0": tiff(65535 - LEVELS.astype("<u2") * 257, 16, WHITE_IS_ZERO),
    "12 bits": tiff(packed(LEVELS.astype(np.uint16) << 4), 12),
}


@pytest.mark.parametrize("image", SHOWN.values(), ids=SHOWN)
def test_the_picture_is_the_same_however_it_is_written(image):
    np.testing.assert_array_equal(Preprocess((16, 16), channels=1)(image)[0], LEVELS)


@pytest.mark.parametrize("sixteen_bit", [12, "auto"])
def test_where_white_is_zero_fewer_bits_are_turned_too(sixteen_bit):
    image = tiff(4095 - (LEVELS.astype("<u2") << 4), 16, WHITE_IS_ZERO)

    np.testing.assert_array_equal(Preprocess((16, 16), channels=1, sixteen_bit=sixteen_bit)(image)[0], LEVELS)


def test_where_white_is_zero_a_picture_that_lies_on_its_side_is_turned_too():
    file = io.BytesIO()
    image = tiff(65535 - LEVELS.astype("<u2") * 257, 16, WHITE_IS_ZERO)
    image.save(file, "TIFF", tiffinfo={262: WHITE_IS_ZERO, 274: 3}, compression="tiff_lzw")

    np.testing.assert_array_equal(Preprocess((16, 16), channels=1)(Image.open(file))[0], LEVELS[::-1, ::-1])


REFUSED = {
    "unsigned": tiff(LEVELS.astype("<u4") * 2**24, 32),
    "signed": tiff(LEVELS.astype("<i4"), 32, kind=SIGNED),
    "floats": tiff(LEVELS.astype("<f4"), 32, kind=FLOATS),
}


@pytest.mark.parametrize("image", REFUSED.values(), ids=REFUSED)
def test_what_has_32_bits_is_refused_in_words(image):
    with pytest.raises(ValueError, match=r"it holds .*; save it with 8 or 16 bits a pixel"):
        Preprocess((16, 16))(image)
