"""Files out of a form: a body that is there as a whole is only cut, so that nothing of it is looked at byte by byte.

Source: RFC 7578 and RFC 2046, section 5.1.1.
"""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from tta_server.api.reading.search import first_of
from tta_server.errors import BadRequest

_MOST_HEAD_BYTES = 8 * 2**10
_MOST_BOUNDARY = 70  # RFC 2046
_MOST_PARAMETERS, _MOST_VALUE = 16, 2048  # of a header
_MOST_QUOTES = 64  # within quotes
_NAME = re.compile(r'\s*+;\s*+([^\s;="]++)\s*+=\s*+')
_ESCAPED = re.compile(r'\\(["\\])')
_CHARSETS: Final = frozenset(("utf-8", "iso-8859-1", "us-ascii"))


class FormFile(NamedTuple):
    """A part of a form that is a file.

    Attributes:
        file_name: What it is called; may be empty.
        data: Its content.
    """

    file_name: str
    data: bytes


def boundary_of(content_type: str) -> bytes:
    """Return what divides the parts of a form.

    Raises:
        BadRequest: If the header does not say.
    """
    boundary = _parameters(content_type).get("boundary", "") if len(content_type) <= _MOST_VALUE else ""
    if not 1 <= len(boundary) <= _MOST_BOUNDARY or not boundary.isascii() or not boundary.isprintable():
        raise BadRequest("the form's Content-Type names no boundary of 1 to 70 characters")
    return boundary.encode()


def files(body: bytes, boundary: bytes, most: int) -> list[FormFile]:
    """Return the files of a form, in their order.

    Args:
        body: The whole of it.
        boundary: What divides its parts.
        most: Most parts that it may have.

    Raises:
        BadRequest: If it is no form, has more parts, or one that is no file.
    """
    divider = b"\r\n--" + boundary
    begun = list[int]()  # where parts begin, behind their dividers
    ended = list[int]()  # where the divider behind each begins
    # The first may stand at the very beginning.
    place = -2 if body.startswith(divider[2:]) else first_of(body, [divider], 0)
    while place is not None:
        after = place + len(divider)
        if body.startswith(b"--", after):
            break
        if len(begun) > most:
            raise BadRequest(f"the form has more than {most} parts, which is how many images a request may have")
        begun.append(after)
        place = first_of(body, [divider], after)
        ended += [] if place is None else [place]
    else:
        raise BadRequest("the form has no end: its last boundary must be followed by two hyphens")
    if len(begun) > most:
        raise BadRequest(f"the form has {len(begun)} parts, and a request may have {most} images")
    parts = zip(begun, ended, strict=True)
    return [_part(body, start, stop, f"part {number} of {len(begun)}") for number, (start, stop) in enumerate(parts, 1)]


def _part(body: bytes, start: int, stop: int, name: str) -> FormFile:
    head_end = body.find(b"\r\n\r\n", start, min(stop, start + _MOST_HEAD_BYTES))
    lines = body[start:head_end] if head_end >= 0 else b""
    if head_end < 0 or not body[start : head_end + 2].lstrip(b" \t").startswith(b"\r\n"):
        raise BadRequest(f"{name} has no head that ends within {_MOST_HEAD_BYTES} bytes")
    for line in lines.decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            if len(value) > _MOST_VALUE:
                raise BadRequest(f"{name} has a Content-Disposition of more than {_MOST_VALUE} characters")
            said = _parameters(value)
            if "filename" not in said:
                raise BadRequest(
                    f"{name} ('{said.get('name', '')[:80]}') has no file name, so it is no image; "
                    "send every image as a file: curl -F image=@FILE"
                )
            return FormFile(said["filename"], body[head_end + 4 : stop])
    raise BadRequest(f"{name} has no Content-Disposition")


def _parameters(value: str) -> dict[str, str]:
    """Return the parameters of a header, by their names in small letters; also those of RFC 8187.

    They end where something else comes: a head may hold nothing but semicolons.
    """
    found, extended = dict[str, str](), dict[str, str]()
    value = value.replace("\r", " ").replace("\n", " ")
    place = value.find(";")
    for _ in range(_MOST_PARAMETERS):
        if place < 0 or not (matched := _NAME.match(value, place)):
            break
        start, key = matched.end(), matched[1].lower()
        if value.startswith('"', start) and (place := _end_of_quoted(value, start)):
            found[key] = _ESCAPED.sub(r"\1", value[start + 1 : place - 1])
            continue
        place = value.find(";", start)
        text = value[start : place if place >= 0 else len(value)].strip()
        if not key.endswith("*"):
            found[key] = text
            continue
        charset, _, coded = text.partition("'")
        if charset.lower() in _CHARSETS:
            extended[key[:-1]] = unquote_to_bytes(coded.partition("'")[2]).decode(charset, "replace")
    return found | extended


def _end_of_quoted(value: str, start: int) -> int:
    """Return the place behind the quote that ends what one at `start` begins; 0 if none does within reach."""
    end = start
    for _ in range(_MOST_QUOTES):
        end = value.find('"', end + 1)
        if end < 0:
            return 0
        before = value[start + 1 : end]
        if (len(before) - len(before.rstrip("\\"))) % 2 == 0:
            return end + 1
    return 0
