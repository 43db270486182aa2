"""What a caller gives, as it is sent: files, arrays and values; what would be sent as something else is refused."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:  # who sends files needs no numpy
    import numpy.typing as npt

Content = bytes | bytearray | memoryview
ImageFile = str | PathLike[str] | Content | BinaryIO
"""An image file: its path, what is in it, or a file that is open for reading bytes."""
ImageFiles = Iterable[ImageFile] | ImageFile
"""One or several."""

_FILE = (str, PathLike, bytes, bytearray, memoryview)


def parts_of(files: ImageFiles) -> list[tuple[str, tuple[str, bytes]]]:
    """Return image files as httpx takes them.

    Raises:
        TypeError: If something else is given.
    """
    listed: list[Any] = [files] if isinstance(files, _FILE) or hasattr(files, "read") else list(files)
    return [("image", _named(each, place)) for place, each in enumerate(listed, 1)]


def _named(file: Any, place: int) -> tuple[str, bytes]:  # noqa: ANN401 (whatever is given)
    if isinstance(file, str | PathLike):
        return _shown(Path(file)), Path(file).read_bytes()
    name = getattr(file, "name", "")
    return _shown(Path(name)) if isinstance(name, str) and name else f"image-{place}", content_of(file)


def _shown(path: Path) -> str:
    """Return a file's name for the server's errors; of one that is no text, what is."""
    return path.name.encode(errors="replace").decode()


def content_of(given: Any) -> bytes:  # noqa: ANN401 (whatever is given)
    """Return bytes, or what is in an open file.

    Raises:
        TypeError: If it is something else, or a file that is open as text.
    """
    content = given.read() if hasattr(given, "read") else given
    if isinstance(content, str) and content is not given:
        raise TypeError("the file is open as text; open it with mode 'rb'")
    if not isinstance(content, Content):
        raise TypeError(
            f"got {type(given).__name__}, expected bytes or a file opened with mode 'rb'; infer sends arrays"
        )
    return bytes(content)


def tensor_of(images: "npt.ArrayLike") -> "npt.NDArray[Any]":
    """Return an array of uint8 or float32, as it is sent.

    Raises:
        TypeError: If it is of another kind.
        ValueError: If parts of it are masked.
    """
    import numpy as np

    if np.ma.is_masked(images):
        raise ValueError("parts of the images are masked, which cannot be sent; fill them first: images.filled(...)")
    array = np.asarray(images)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise TypeError(f"the images are of {array.dtype}, expected uint8, or floats in [0, 1]")
    return array.astype("<f4", copy=False)


def plain(value: Any) -> Any:  # noqa: ANN401 (JSON, but for numbers)
    """Return JSON with Python's numbers in place of numpy's."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.item() if hasattr(value, "item") else value
