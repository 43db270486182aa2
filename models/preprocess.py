"""From a decoded image to the array that a model takes, as data of the model."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin

Pixels = npt.NDArray[np.uint8]
"""Levels in [0, 255]."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

log = logging.getLogger(__name__)

_ROUNDING = 1e-6  # a processor's factors multiply to one, or nearly
_SIXTEEN_BIT = ("full", 12, 10, "auto")
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

# How to turn an image upright, by its EXIF orientation; 1 already is.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Preprocess:
    """Turn an image into (C, H, W) bytes: upright, right colours, shorter side resized, centre cropped.

    Attributes:
        size: (H, W) of the result, in pixels.
        resize: Length the shorter side gets before the crop, in pixels, or (H, W) that the whole image gets; None
            resizes straight to `size`.
        interpolation: Filter of the resize; antialiased, as torchvision does for PIL images.
        odd: Where the crop lies if an odd number of pixels is cut off: "even" rounds to the even one of both places, as
            torchvision does, "first" takes the one nearer to the first pixel, as transformers does.
        channels: 3 (RGB) or 1 (grey).
        mean: Per-channel mean of the training images, in [0, 1], so that of levels up to 255 divided by 255; the
            backbone subtracts it.
        std: Per-channel deviation of the training images, in (0, 1] likewise; the backbone divides by it.
        sixteen_bit: How many bits of a 16-bit grey image are the picture: full is all of them, 12 and 10 are what
            many sensors give, auto tells by the largest value of each image.
    """

    size: tuple[int, int]
    resize: int | tuple[int, int] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    odd: Literal["even", "first"] = "even"
    channels: int = 3
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    sixteen_bit: Literal["full", 12, 10, "auto"] = "full"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")
        if self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation must be one of {', '.join(_FILTERS)}, got '{self.interpolation}'")
        if self.sixteen_bit not in _SIXTEEN_BIT:
            raise ValueError(f"sixteen_bit must be full, 12, 10 or auto, got '{self.sixteen_bit}'")
        if min(self.size) < 1:
            raise ValueError(f"size must be positive, got {self.size}")
        if self.odd not in ("even", "first"):
            raise ValueError(f"odd must be even or first, got '{self.odd}'")
        least = [self.resize] * 2 if isinstance(self.resize, int) else self.resize or self.size
        if len(least) != 2 or any(length < crop for length, crop in zip(least, self.size, strict=True)):
            raise ValueError(f"resize must be at least the crop {self.size}, got {self.resize}")
        _expect_shares("mean", self.mean, "[0, 1]")
        _expect_shares("std", self.std, "(0, 2]")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the model takes."""
        return (self.channels, *self.size)

    def about(self) -> dict[str, Any]:
        """Return it as JSON has it; what amounts to the same is equal."""
        resize = self.resize if isinstance(self.resize, int) else list(self.resize or self.size)
        cut = {} if resize != list(self.size) else {"odd": "even"}  # nothing is
        normalised = {"mean": list(self.mean or [0.0] * self.channels), "std": list(self.std or [1.0] * self.channels)}
        return asdict(self) | {"size": list(self.size), "resize": resize} | cut | normalised

    def __call__(self, image: Image.Image) -> Pixels:
        """Return `image` as uint8 (C, H, W), contiguous and owned by the caller.

        EXIF orientation is applied, unless the EXIF data are damaged. Transparency is dropped, not blended, which is
        what the usual training loaders do. 16-bit grey keeps the highest 8 of the bits that `sixteen_bit` says; in a
        TIFF it may have fewer bits, or 0 be white.

        Raises:
            ValueError: If the image holds no levels but floating-point numbers, or integers of 32 bits.
        """
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        image, mode = _eight_bits(_upright(image), self.sixteen_bit, tags), "RGB" if self.channels == 3 else "L"
        image = image if image.mode == mode else image.convert(mode)  # which copies it in any case
        pixels = np.asarray(self._cropped(self._resized(image)), dtype=np.uint8)
        # Always a copy: Pillow's buffer is read-only.
        return np.array(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), order="C")

    def _resized(self, image: Image.Image) -> Image.Image:
        """Return the whole image in the length or shape before the crop, rounded as torchvision does."""
        if isinstance(self.resize, int):
            least = min(image.size)
            shape = int(self.resize * image.width / least), int(self.resize * image.height / least)
        else:
            height, width = self.resize or self.size
            shape = width, height
        return image if image.size == shape else image.resize(shape, _FILTERS[self.interpolation])

    def _cropped(self, image: Image.Image) -> Image.Image:
        """Return the centre of an image that is at least as large as the result."""
        cut = image.height - self.size[0], image.width - self.size[1]
        if not any(cut):
            return image
        top, left = (side // 2 if self.odd == "first" else round(side / 2) for side in cut)
        return image.crop((left, top, left + self.size[1], top + self.size[0]))


def _expect_shares(name: str, values: Sequence[float] | None, fits: Literal["[0, 1]", "(0, 2]"]) -> None:
    numbers = [] if values is None else [float(value) for value in values]
    most = 1 + _ROUNDING if fits == "[0, 1]" else 2  # where a library only scales, by 1/256 or so, it is above 1
    if all(0 <= number <= most and (number or fits == "[0, 1]") for number in numbers):
        return
    remedy = "; divide by 255 what is of levels in [0, 255]" if max(numbers) > 1 else ""
    raise ValueError(f"{name} must be in {fits}, got {', '.join(f'{number:g}' for number in numbers)}{remedy}")


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # so that a damaged picture is not taken for damaged EXIF data
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises whatever the damage leads to; the picture itself is good
        return image
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image, sixteen_bit: str | int, tags: Mapping[int, Any]) -> Image.Image:
    """Return an image of 8 bits; `tags` are those of a TIFF."""
    if image.mode == "F":
        raise ValueError("it holds floating-point numbers; save it with 8 or 16 bits a pixel")
    if not image.mode.startswith("I"):
        return image
    depth = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    if depth > 16:
        raise ValueError(f"it holds integers of {depth} bits; save it with 8 or 16 bits a pixel")
    # convert("RGB") clips 16-bit grey to white instead of scaling it.
    levels = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
    bits = depth if sixteen_bit == "full" else sixteen_bit
    if sixteen_bit == "auto":
        bits = next(bits for bits in (10, 12, 16) if levels.max() < 2**bits)
    elif bits == 16 and 0 < levels.max() < 2**12:
        _warn_of_small_values()
    shown = np.minimum(levels >> (int(bits) - 8), 255).astype(np.uint8)
    white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0  # Pillow inverts 8 bits, not 16
    return Image.fromarray(255 - shown if white_is_zero else shown)


@cache
def _warn_of_small_values() -> None:
    """Say once that images come out nearly black."""
    log.warning(
        "a 16-bit image has no value above 4095, so that it comes out nearly black; if such images hold 12 or 10 bits, "
        "set model.preprocess.sixteen_bit to 12, 10 or auto (this is said once)"
    )
