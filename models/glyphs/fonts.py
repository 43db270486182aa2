"""The usable faces among the fonts of installed Debian packages.

Training and test fonts are split by package, so that the bold face of a training family is never a test font.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tta_server.models.glyphs.packages import PACKAGES, RELATED
from tta_server.models.glyphs.spec import LABELS

TEST_SHARE = 0.2  # of the packages, related ones counted once

# Where dpkg keeps the list of files of each installed package.
_DPKG_LISTS = Path("/var/lib/dpkg/info")
CAP_HEIGHT_PX = 44
_MARGIN_PX = 8

# Faces that do not show plain capitals and digits, by a part of their name: symbols, mathematics, frames and outlines,
# lower-case shapes in the place of capitals, and strokes too thin to be seen at 32 pixels.
_UNREADABLE = (
    *("symbol", "dingbat", "d050000l", "integrals", "nonunicode", "variants", "size"),
    *("inverted", "outline", "unifur", "thin", "hairline", "ultralight", "smallcaps"),
)
# Pairs that some faces draw alike, or tell apart by size only, which a scaled image of one character does not show.
_LOOKALIKES = (("O", "0"), ("I", "1"))
_LEAST_DIFFERENCE = 0.15
_LEAST_DIGIT_HEIGHT = 0.85  # of the capitals: lower are old-style figures


@dataclass(frozen=True)
class Face:
    """The 36 shapes of one font file.

    Attributes:
        package: Debian package that the file comes from.
        name: Family and style, as the file gives them.
        masks: One grey image a label, 0 outside and 255 inside; capitals are 44 pixels high, and the glyph is in
            the middle of a margin that keeps resampling off the border.
    """

    package: str
    name: str
    masks: tuple[Image.Image, ...]


def find(packages: tuple[str, ...] = PACKAGES) -> list[Face]:
    """Return the usable faces of the installed packages, each shape of an alphabet once.

    Args:
        packages: Names of Debian packages; all must be installed.

    Returns:
        Faces in the order of package and file name, the same on every machine with the same package versions.

    Raises:
        ValueError: If a package is not installed.
    """
    missing = [package for package in packages if not (_DPKG_LISTS / f"{package}.list").exists()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(packages)} font packages are not installed; "
            f"on Debian 12 run: apt-get install --no-install-recommends {' '.join(missing)}"
        )
    faces: dict[bytes, Face] = {}
    for package in packages:
        for path in _files(package):
            face = load(path, package)
            if face is not None:
                # Families are often packaged twice, and as both .otf and .ttf.
                faces.setdefault(b"".join(mask.tobytes() for mask in face.masks), face)
    return list(faces.values())


def split(faces: list[Face], rng: np.random.Generator) -> tuple[list[Face], list[Face]]:
    """Return training faces and test faces, which share no package and no related package."""
    first = {package: related[0] for related in RELATED for package in related}
    groups = sorted({first.get(face.package, face.package) for face in faces})
    held_out = set(rng.permutation(groups)[: round(TEST_SHARE * len(groups))].tolist())
    test = [face for face in faces if first.get(face.package, face.package) in held_out]
    return [face for face in faces if first.get(face.package, face.package) not in held_out], test


def load(path: Path, package: str) -> Face | None:
    """Return the face in a font file, or None if it does not have 36 readable, distinct characters."""
    try:
        font = ImageFont.truetype(path, 64)
    except OSError:  # a bitmap font, or a damaged one
        return None
    name = " ".join(part or "?" for part in font.getname())
    if any(word in name.lower() for word in _UNREADABLE):
        return None
    return from_font(font, package, name)


def from_font(font: ImageFont.FreeTypeFont, package: str, name: str) -> Face | None:
    """Return the face of an opened font at any size, or None if a character is blank, missing or not distinct."""
    _, top, _, bottom = font.getbbox("H")
    if bottom <= top:
        return None
    font = font.font_variant(size=font.size * CAP_HEIGHT_PX / (bottom - top))
    masks = {label: mask for label in LABELS if (mask := _mask(font, label)) is not None}
    # A private code point shows the box that stands for every missing character.
    box = _mask(font, "\ue83a")
    shapes = {(mask.size, mask.tobytes()) for mask in masks.values()}
    if len(shapes) < len(LABELS) or (box is not None and (box.size, box.tobytes()) in shapes):
        return None
    if masks["0"].height - 2 * _MARGIN_PX < _LEAST_DIGIT_HEIGHT * CAP_HEIGHT_PX:
        return None
    if min(_difference(masks[one], masks[other]) for one, other in _LOOKALIKES) < _LEAST_DIFFERENCE:
        return None
    return Face(package, name, tuple(masks.values()))


def _files(package: str) -> list[Path]:
    listed = (_DPKG_LISTS / f"{package}.list").read_text().splitlines()
    return sorted(Path(line) for line in listed if line.lower().endswith((".ttf", ".otf")))


def _mask(font: ImageFont.FreeTypeFont, character: str) -> Image.Image | None:
    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    if right <= left or bottom <= top or right - left > 4 * CAP_HEIGHT_PX:
        return None
    mask = Image.new("L", (right - left + 2 * _MARGIN_PX, bottom - top + 2 * _MARGIN_PX))
    ImageDraw.Draw(mask).text((_MARGIN_PX - left, _MARGIN_PX - top), character, fill=255, font=font)
    return mask


def _difference(one: Image.Image, other: Image.Image) -> float:
    """Return the ink that two characters do not share when drawn equally high, as a share of their mean ink."""
    first, second = _equally_high(one), _equally_high(other)
    return float(2 * np.abs(first - second).sum() / (first.sum() + second.sum()))


def _equally_high(mask: Image.Image) -> NDArray[np.float64]:
    height, width = 24, 72
    ink = mask.crop(mask.getbbox())
    drawn = min(width, max(1, round(height * ink.width / ink.height)))
    canvas = Image.new("L", (width, height))
    canvas.paste(ink.resize((drawn, height)), ((width - drawn) // 2, 0))
    return np.asarray(canvas, dtype=np.float64) / 255
