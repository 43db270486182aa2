"""What of a PNG is its picture: texts, colour profiles and whatever else nobody here looks at are left out.

They say nothing that the server uses, and Pillow refuses a whole file for a large or damaged one.
"""

import struct
import zlib

from tta_server.errors import BadRequest

_START = b"\x89PNG\r\n\x1a\n"
_WANTED = frozenset((b"tRNS", b"eXIf"))  # of what is no part of every picture: what is seen through, which way is up
_TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_UPRIGHT = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"  # begin texts that may say, too, which way is up
_MOST_TEXT_BYTES, _MOST_TEXTS = 64 * 2**10, 2  # of such a text, and in a file: more are not even looked at
_HEAD = struct.Struct(">I4s")  # length and kind
_SUM = struct.Struct(">I")
_SMALL = range(ord("a"), ord("z") + 1)  # with these begins the kind of what is no part of the picture
_MOST_CHUNKS = 10_000  # encoders make one for 8 KiB
_MANY_CHUNKS, _SMALL_BYTES = 1_000, 256  # beyond so many, so many bytes each is what no encoder makes
_AROUND = 12  # bytes of a chunk's length, kind and checksum


def only_the_picture(name: str, data: bytes) -> bytes:
    """Return a PNG without what is not its picture; anything else as it is.

    Args:
        name: What to call it in an error.
        data: The file.

    Raises:
        BadRequest: If it is in more than 10,000 pieces, or in more than 1,000 that have less than 256 bytes on average.
    """
    if not data.startswith(_START):
        return data
    kept: list[tuple[int, int]] = []
    place, chunks, texts, dropped = len(_START), 0, 0, False
    while place + _AROUND <= len(data):
        length, kind = _HEAD.unpack_from(data, place)
        end = place + _AROUND + length
        ancillary = kind[0] in _SMALL and kind not in _WANTED
        if ancillary and texts < _MOST_TEXTS and _may_turn(data, kind, place, end):
            ancillary, texts = not _is_sound(data, kind, place, end), texts + 1
        dropped |= ancillary
        if not ancillary:
            kept.append((place, end))
        chunks += 1
        if chunks > _MOST_CHUNKS or (chunks > _MANY_CHUNKS and place < chunks * _SMALL_BYTES):
            raise BadRequest(f"{name} is a PNG in more than {chunks - 1} pieces; save it anew")
        place = end
        if kind == b"IEND":
            break
    if not dropped:
        return data
    kept.append((place, len(data)))  # what is torn is for the decoder to judge
    return _START + b"".join(data[start:end] for start, end in kept)


def _may_turn(data: bytes, kind: bytes, place: int, end: int) -> bool:
    """Return whether a chunk is a text of ordinary size that may say which way is up."""
    small = end - place <= _MOST_TEXT_BYTES and end <= len(data)
    return kind in _TEXTS and small and data.startswith(_UPRIGHT, place + _HEAD.size)


def _is_sound(data: bytes, kind: bytes, place: int, end: int) -> bool:
    """Return whether Pillow can read a text, and it stays small."""
    start, stop = place + _HEAD.size, end - _SUM.size
    if _SUM.unpack_from(data, stop)[0] != zlib.crc32(data[start - len(kind) : stop]):
        return False
    said = data[start:stop].partition(b"\0")[2]
    if kind == b"tEXt":
        return True
    if not said.startswith(b"\0"):  # of a zTXt, an unknown way to compress; of an iTXt, that it is compressed
        return False
    return kind == b"iTXt" or _inflates_to_little(said[1:])


def _inflates_to_little(compressed: bytes) -> bool:
    try:
        return len(zlib.decompressobj().decompress(compressed, _MOST_TEXT_BYTES + 1)) <= _MOST_TEXT_BYTES
    except zlib.error:
        return False
