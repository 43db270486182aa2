"""Text of others beside one's own: what would command a terminal, or turn the text beside it around, is not in it."""

import re
from typing import Final

UNSEEN: Final = r"\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
"""Characters without a shape, as a class of regular expressions has them, in Python and in JavaScript: controls, breaks
of lines, marks of direction, and spaces of no width; not those that join letters, which languages need."""

_UNSEEN: Final = re.compile(f"[{UNSEEN}]")


def is_plain(text: str) -> bool:
    """Say whether a text has no such character."""
    return not _UNSEEN.search(text)


def plain(text: str) -> str:
    r"""Return a text with such characters written out, as `\x1b`; it is one line."""
    return _UNSEEN.sub(lambda found: ascii(found.group())[1:-1], text)


def plain_lines(text: str) -> str:
    """Return the same of a text whose line breaks are meant."""
    return "\n".join(map(plain, text.split("\n")))
