"""From bytes to images: every limit is checked before anything large is decoded."""

import io
import math
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from PIL import Image, UnidentifiedImageError, features

from tta_server.errors import BadRequest, TooLarge, TTAError, UnsupportedMedia
from tta_server.models.preprocess import Pixels
from tta_server.runtime.images.jpeg_scans import MOST_SCANS, expect_few_scans
from tta_server.runtime.images.png_chunks import only_the_picture

Transform = Callable[[Image.Image], Pixels]

_ENDINGS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "AVIF": (".avif",),
}
FORMATS: Final = tuple(name for name in _ENDINGS if name != "AVIF" or features.check("avif"))
"""What is read, wherever images are read: requests and folders."""
SUFFIXES: Final = frozenset(ending for name in FORMATS for ending in _ENDINGS[name])
"""How the names of such files end, in small letters."""
NAMES: Final = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"

_MAX_ASPECT = 50  # resized by its shorter side, an image of 1 x 4000 pixels would take gigabytes
_SLOW = frozenset(("JPEG", "AVIF"))  # how long they take to decode goes by their bytes, not only by their pixels
_SLOW_IN_TIFF = frozenset(("jpeg", "lzma"))
_NEVER_SLOW_BYTES = 2**20
_LOOKS_LIKE = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
    b"<": "a page of HTML or XML",
    b"GIF8": "a GIF",
    b"%PDF": "a PDF",
    b"data:image/": "base64 text",
    b"iVBORw0KGgo": "base64 text",
    b"/9j/": "base64 text",
}

# Pillow's own limit warns and then decodes; `open_image` refuses from the header instead, at a lower limit.
Image.MAX_IMAGE_PIXELS = None
os.environ.setdefault("LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER", str(MOST_SCANS))  # of a JPEG in a TIFF; read by libtiff


class Upload(NamedTuple):
    """One encoded image.

    Attributes:
        name: What to call it in an error.
        data: Its bytes.
    """

    name: str
    data: bytes


class Opened(NamedTuple):
    """An image whose header has been read, and nothing else.

    Attributes:
        name: What to call it in an error.
        image: It, not yet decoded.
    """

    name: str
    image: Image.Image

    @property
    def pixels(self) -> int:
        """How many pixels it has."""
        return self.image.width * self.image.height

    def decode(self, transform: Transform) -> Pixels:
        """Decode it and bring it into the model's shape, uint8 (C, H, W); the file is closed then.

        Raises:
            BadRequest: If it is damaged.
        """
        try:
            with self.image:
                return transform(self.image)
        except Exception as error:  # Pillow's decoders raise whatever the damage leads to
            raise _damaged(self.name, error) from error


def open_image(upload: Upload, max_pixels: int | None = None) -> Opened:
    """Read the header of an image.

    Args:
        upload: The image.
        max_pixels: Most pixels it may have; None sets no limit.

    Raises:
        UnsupportedMedia: If the bytes are of no format in `FORMATS`.
        TooLarge: If the image has too many pixels, or would take long to decode.
        BadRequest: If it is damaged, or a sliver.
    """
    if not upload.data:
        raise BadRequest(f"{upload.name} is empty; send the bytes of a {NAMES} file")
    try:
        image = Image.open(io.BytesIO(only_the_picture(upload.name, upload.data)), formats=FORMATS)
    except TTAError:
        raise
    except UnidentifiedImageError as error:
        like = next((f"; it looks like {what}" for start, what in _LOOKS_LIKE.items() if _starts(upload, start)), "")
        raise UnsupportedMedia(f"{upload.name} is not an image this server reads{like}; send {NAMES}") from error
    except Exception as error:  # Pillow's decoders raise whatever the damage leads to
        raise _damaged(upload.name, error) from error
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        raise TooLarge(
            f"{upload.name} is {width} x {height}, more than the {max_pixels} pixels allowed; send it smaller"
        )
    most_bytes = max(max_pixels or math.inf, _NEVER_SLOW_BYTES)
    if len(upload.data) > most_bytes and (image.format in _SLOW or image.info.get("compression") in _SLOW_IN_TIFF):
        raise TooLarge(
            f"{upload.name} is a {image.format} of {len(upload.data)} bytes, more than the {most_bytes} that one may "
            "have here (one a pixel of limits.max_pixels), which takes long to decode; save it in a lower quality"
        )
    expect_few_scans(upload.name, upload.data)
    if max(width, height) > _MAX_ASPECT * min(width, height):
        raise BadRequest(f"{upload.name} is {width} x {height}; one side may be at most {_MAX_ASPECT} times the other")
    return Opened(upload.name, image)


def _starts(upload: Upload, start: bytes) -> bool:
    return upload.data[:200].lstrip().startswith(start)


def _damaged(name: str, error: Exception) -> BadRequest:
    reason = " ".join(str(error).split())
    return BadRequest(f"{name} is a damaged image: {reason or type(error).__name__}; send it again")
