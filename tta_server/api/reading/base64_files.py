"""Image files as base64 within JSON: a convenience for who cannot send bytes."""

import base64
import binascii
import re
from typing import Any, Final

import orjson

from tta_server.errors import BadRequest

_TEXT: Final = {"type": "string", "contentEncoding": "base64", "minLength": 1}
SCHEMA: Final[dict[str, Any]] = {
    "title": "Base64Images",
    "type": "object",
    "properties": {"image": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}},
    "required": ["image"],
    "additionalProperties": False,
}
"""What the OpenAPI document says of such a body."""

_PIECE_BYTES = 2**18  # a multiple of 4
_DATA_URL = re.compile("data:.*;base64", re.IGNORECASE | re.DOTALL)  # before its comma

_FORM = 'send {"image": "BASE64"}, or {"image": ["BASE64", ...]}'


def files(body: bytes, most: int) -> list[bytes]:
    """Return the files of a body.

    Args:
        body: A JSON object whose `image` is base64 (RFC 4648, section 4), or a list of such texts; a text may begin as
            a data URL does, and be cut into lines.
        most: Most files that it may have.

    Raises:
        BadRequest: If it is no such object, has more files, or one that is not base64.
    """
    # Base64 has none of these characters, so they are few; whatever has many is refused before objects are made of it.
    if body.count(b",") > 2 * most or body.count(b"[") > 1 or body.count(b"{") > 1:
        raise BadRequest(
            f"the body has more than the {most} images that a request may have, or something else; {_FORM}"
        )
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON ({error}); {_FORM}") from error
    texts = said.get("image") if isinstance(said, dict) and len(said) == 1 else None
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise BadRequest(f"the body is not what it is expected to be: {_FORM}")
    if len(texts) > most:
        raise BadRequest(f"the body has {len(texts)} images, and a request may have {most}")
    return [_file(text, place, len(texts)) for place, text in enumerate(texts, 1)]


def _file(text: str, place: int, count: int) -> bytes:
    head, comma, rest = text.partition(",")
    if comma and _DATA_URL.fullmatch(head):
        text = rest
    try:
        return _decoded(text.encode("ascii").translate(None, b" \t\r\n"))
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"image {place} of {count} is not base64 ({error})") from error


def _decoded(text: bytes) -> bytes:
    """Decode in pieces, for while one is decoded no other thread of Python runs."""
    if text.find(b"=", 0, len(text) - 2) >= 0:
        raise ValueError("something follows its padding")
    starts = range(0, len(text), _PIECE_BYTES)
    return b"".join(base64.b64decode(text[start : start + _PIECE_BYTES], validate=True) for start in starts)
