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

_PIECE = 2**20  # bytes of numbers that are looked at before their count is

_MOST_OF_TAG = 5  # bytes, as protobuf reads it
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
                tag, place = _varint(part, place, _MOST_OF_TAG)
                size, place = _size(part, place, tag & 7)
                field = kind.fields_by_number.get(tag >> 3)
                if tag & 7 == _LENGTH and field is not None and field.cpp_type != field.CPPTYPE_STRING:
                    value = part[place : place + size]
                    if field.message_type is not None:
                        inside.append((value, field.message_type))
                    elif field.cpp_type not in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
                        numbers += _numbers(value, MOST_NUMBERS - numbers)
                place += size
    except (IndexError, ValueError) as error:
        raise BadRequest(f"the message is no {name}: it is malformed, or has groups") from error


def values_apart(data: bytes, number: int) -> tuple[bytes, list[memoryview]]:
    """Return a message without the values of a field of bytes, and these values, of which nothing is copied.

    Args:
        data: A message that `expect_few_fields` takes.
        number: Of the field, in the message itself.
    """
    whole, left, found, place = memoryview(data), list[memoryview](), list[memoryview](), 0
    while place < len(whole):
        start = place
        tag, place = _varint(whole, place, _MOST_OF_TAG)
        size, place = _size(whole, place, tag & 7)
        place += size
        if tag == number << 3 | _LENGTH:
            found.append(whole[place - size : place])
        else:
            left.append(whole[start:place])
    return b"".join(left), found


def _numbers(packed: memoryview, most: int) -> int:
    """Return how many numbers a list has.

    Raises:
        TooLarge: If they are more than `most`.
    """
    count = 0
    for start in range(0, len(packed), _PIECE):
        piece = np.frombuffer(packed[start : start + _PIECE], np.uint8)
        count += int(np.count_nonzero(piece < 0x80))  # the last byte of each
        if count > most:
            raise TooLarge(
                f"the message has more than {MOST_NUMBERS} whole numbers in lists; send values as raw contents"
            )
    return count


def _size(part: memoryview, place: int, wire: int) -> tuple[int, int]:
    """Return how long the value of a field is, and where it begins; all of it is there."""
    if wire == _VARINT:
        size, place = 0, _varint(part, place)[1]
    elif wire == _LENGTH:
        size, place = _varint(part, place)
    elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
        size = 8 if wire == _EIGHT_BYTES else 4
    else:
        raise ValueError("no field of this version of the format")
    if place + size > len(part):
        raise ValueError("cut off")
    return size, place


def _varint(part: memoryview, place: int, most: int = 10) -> tuple[int, int]:
    """Return a number of at most so many bytes, and where it ends."""
    value = 0
    for shift in range(0, 7 * most, 7):
        byte = part[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("no number")
