"""Image files, made on the spot."""

import io

import numpy as np
from PIL import Image


def scene(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Return a colourful RGB image."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """Return an image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int = 40, height: int = 30, seed: int = 0) -> bytes:
    """Return a PNG file."""
    return encoded(scene(width, height, seed))


def good_files() -> dict[str, bytes]:
    """Return one file of every kind that must be read."""
    image = scene(64, 48)
    grey16 = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    large = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (3000, 16))[:, :4000]).convert("RGB")
    return {
        "jpeg": encoded(image, "JPEG"),
        "progressive jpeg": encoded(image, "JPEG", progressive=True),
        "cmyk jpeg": encoded(image.convert("CMYK"), "JPEG"),
        "png": encoded(image),
        "grey png": encoded(image.convert("L")),
        "grey jpeg": encoded(image.convert("L"), "JPEG"),
        "rgba": encoded(image.convert("RGBA")),
        "16 bit": encoded(Image.fromarray(grey16)),
        "palette": encoded(image.convert("P")),
        "one bit": encoded(image.convert("1")),
        "one pixel": png(1, 1),
        "4000x3000": encoded(large, "JPEG"),
    }
