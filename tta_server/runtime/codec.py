"""From bytes to images: every limit is checked before anything large is decoded."""

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from tta_server.errors import BadRequest, TooLarge, TTAError, UnsupportedMedia
from tta_server.models.preprocess import Pixels

Transform = Callable[[Image.Image], Pixels]

_FORMATS = ("JPEG", "PNG")
_MAX_ASPECT = 50  # resized by its shorter side, an image of 1 x 4000 pixels would take gigabytes

# Pillow's own limit warns and then decodes; `decode` refuses from the header instead, at a lower limit.
Image.MAX_IMAGE_PIXELS = None


class Upload(NamedTuple):
    """One encoded image.

    Attributes:
        name: What to call it in an error.
        data: Its bytes.
    """

    name: str
    data: bytes


def decode_all(uploads: Sequence[Upload], transform: Transform, max_pixels: int) -> Pixels:
    """Decode images and bring them into the model's shape.

    Args:
        uploads: At least one.
        transform: From an image to uint8 (C, H, W).
        max_pixels: Most pixels an image may have before it is resized.

    Returns:
        uint8 (n, C, H, W), in the order of `uploads`.

    Raises:
        UnsupportedMedia: If bytes are no JPEG or PNG.
        TooLarge: If an image has too many pixels; it is not decoded.
        BadRequest: If an image is damaged, or a sliver.
    """
    return np.stack([decode(upload, transform, max_pixels) for upload in uploads])


def decode(upload: Upload, transform: Transform, max_pixels: int) -> Pixels:
    """Decode one image; see `decode_all`."""
    if not upload.data:
        raise BadRequest(f"{upload.name} is empty; send the bytes of a JPEG or PNG file")
    try:
        with Image.open(io.BytesIO(upload.data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise TooLarge(
                    f"{upload.name} is {width} x {height}, more than the {max_pixels} pixels allowed; send it smaller"
                )
            if max(width, height) > _MAX_ASPECT * min(width, height):
                raise BadRequest(
                    f"{upload.name} is {width} x {height}; one side may be at most {_MAX_ASPECT} times the other"
                )
            return transform(image)
    except TTAError:
        raise
    except UnidentifiedImageError as error:
        raise UnsupportedMedia(f"{upload.name} is not an image this server reads; send JPEG or PNG") from error
    except Exception as error:  # Pillow's decoders raise whatever the damage leads to
        raise BadRequest(f"{upload.name} is a damaged image: {error or type(error).__name__}; send it again") from error
