"""How many scans a JPEG has: a decoder goes over the whole picture for each, however small the file is."""

import re

from tta_server.errors import TooLarge

MOST_SCANS = 20
"""Encoders make about ten, of four colours 18; a decoder takes up to 0.1 s for a scan of 16 million pixels."""

_START = b"\xff\xd8\xff"
_STAND_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_SCAN, _END = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # amid coded data, 0 is an escape and the others are restarts


def expect_few_scans(name: str, data: bytes) -> None:
    """Do nothing if a file is no JPEG, or one with few scans.

    Args:
        name: What to call it in an error.
        data: The file.

    Raises:
        TooLarge: If it has more than `MOST_SCANS`.
    """
    if data.startswith(_START) and _scans(data) > MOST_SCANS:
        raise TooLarge(f"{name} is a JPEG of more than {MOST_SCANS} scans, which takes long to decode; save it anew")


def _scans(data: bytes) -> int:
    """Count the scans of the first picture of a file, up to one more than are allowed."""
    scans, place = 0, 2
    while scans <= MOST_SCANS:
        found = _MARKER.search(data, place)
        if not found:
            break
        place, kind = found.end(), data[found.end() - 1]
        if kind == _END:
            break
        if kind not in _STAND_ALONE:
            scans += kind == _SCAN
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
    return scans
