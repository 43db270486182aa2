"""How many fields and numbers a message has, counted before anything is built of it.

Source: protobuf.dev/programming-guides/encoding.
"""

from typing import Any

import numpy as np

from tta_server.errors import BadRequest, TooLarge

MOST_FIELDS = 4096
"""Fields of a message with all that are within it; a field of two bytes may become an object of a hundred."""

MOST_NUMBERS = 2**22
"""Whole numbers of a message with all that are in it, those of shapes too: one of a byte may become one of eight."""

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def expect_few_fields(data: bytes, kind: Any) -> None:
    """Do nothing if a message has at most `MOST_FIELDS` fields, and `MOST_NUMBERS` in their lists.

    Args:
        data: The message as it came.
        kind: Its descriptor.

    Raises:
        TooLarge: If it has more.
        BadRequest: If it is malformed, or has groups, which proto3 has not: nothing may go uncounted.
    """
    count, numbers, inside, name = 0, 0, [(memoryview(data), kind)], kind.full_name
    try:
        while inside:
            part, kind = inside.pop()
            place = 0
            while place < len(part):
                count += 1
                if count > MOST_FIELDS:
                    raise TooLarge(f"the message has more than {MOST_FIELDS} fields; send values as raw contents")
                tag, place = _varint(part, place)
                size, place = _size(part, place, tag & 7)
                field = kind.fields_by_number.get(tag >> 3)
                if tag & 7 == _LENGTH and field is not None and field.cpp_type != field.CPPTYPE_STRING:
                    value = part[place : place + size]
                    if field.message_type is not None:
                        inside.append((value, field.message_type))
                    elif field.cpp_type not in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
                        numbers += int(np.count_nonzero(np.frombuffer(value, np.uint8) < 0x80))  # each one's last byte
                if numbers > MOST_NUMBERS:
                    raise TooLarge(
                        f"the message has more than {MOST_NUMBERS} whole numbers in lists; send values as raw contents"
                    )
                place += size
    except (IndexError, ValueError) as error:
        raise BadRequest(f"the message is no {name}: it is malformed, or has groups") from error


def _size(part: memoryview, place: int, wire: int) -> tuple[int, int]:
    """Return how long the value of a field is, and where it begins."""
    if wire == _VARINT:
        return 0, _varint(part, place)[1]
    if wire == _LENGTH:
        return _varint(part, place)
    if wire in (_EIGHT_BYTES, _FOUR_BYTES):
        return 8 if wire == _EIGHT_BYTES else 4, place
    raise ValueError("no field of this version of the format")


def _varint(part: memoryview, place: int) -> tuple[int, int]:
    """Return a number, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = part[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("no number")
