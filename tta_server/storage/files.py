"""What a place for bytes must offer."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Found(NamedTuple):
    """One file or folder of a listing.

    Attributes:
        name: Its name in the folder.
        size_bytes: Its size; 0 for a folder.
        modified_s: When it was written, in seconds since 1970; 0 where that is not known.
        is_folder: Whether it is one.
    """

    name: str
    size_bytes: int
    modified_s: float
    is_folder: bool


class Files(Protocol):
    """Bytes under paths such as `streams/camera/manifest.json`. Whatever fails raises OSError.

    Attributes:
        look_every_s: How long it is enough to have looked once whether a shared stream is still one's own.
        callers: How many threads gain by calling at the same time; 1 where no two may.
        together: How many files are best written together.
    """

    look_every_s: float
    callers: int
    together: int

    def claim(self, alone: bool = True) -> None:
        """Take the place, for this process alone or beside others; ValueError if another has it for itself."""
        ...

    def hold(self) -> None:
        """Make sure that the place is still this process's; take it again if it was emptied meanwhile."""
        ...

    def release(self) -> None:
        """Let others have it."""
        ...

    def read(self, path: str) -> bytes:
        """Return a file; FileNotFoundError if there is none."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Put a file there, whole or not at all; when this returns it survives a power cut."""
        ...

    def write_all(self, files: Sequence[tuple[str, bytes]]) -> list[Exception | None]:
        """Put files there, each as `write` does.

        Returns:
            What went wrong with each.
        """
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Put a file there as `write` does unless there is one; returns whether it was put there by this call."""
        ...

    def append_lines(self, path: str, lines: bytes) -> None:
        """Add lines, each with its newline, to the end of a file; a torn line there is ended first."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file or an empty folder, if it is there."""
        ...

    def listing(self, folder: str) -> list[Found]:
        """Return what is in a folder, sorted by name, but for unfinished files.

        Where there is no such folder nothing is in it.
        """
        ...

    def folders(self, folder: str, named: re.Pattern[str], prefix: str = "") -> dict[str, list[str]]:
        """Return the folders in a folder, each with the names of what is in it, but for unfinished files.

        It asks once for all of them, where the place can be asked so.

        Args:
            folder: Where they are.
            named: What all of a name matches; others are left alone.
            prefix: What a name begins with.
        """
        ...

    def sweep(self, folder: str, named: re.Pattern[str]) -> dict[str, list[str]]:
        """Return what `folders` does, and remove unfinished files that a crash left in them or below.

        Where others write too, theirs are not told apart: then nothing is removed.
        """
        ...


def tried(do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """Return what `do` does, or what it raises: a remote store raises what it likes."""
    try:
        return do(*args, **kwargs)
    except Exception as error:
        return error.with_traceback(None)  # what it was at may be large
