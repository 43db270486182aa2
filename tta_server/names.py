"""Names of streams and their domains, as the server takes them and whoever asks it checks them.

No name holds what would be another path. What stream `gate-7` learnt of the second kind of input that it met is
`gate-7@2`; no caller may send images there.
"""

import re
from typing import Final

DOMAIN_SIGN: Final = "@"
"""Stands between a stream and the number of a domain; no name of a stream has it."""

# Names of dots alone are no path segments: clients resolve them away.
STREAM_NAME: Final = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,64}")
STREAM_OR_DOMAIN_NAME: Final = re.compile(rf"{STREAM_NAME.pattern}({DOMAIN_SIGN}[1-9][0-9]{{0,8}})?")

MOST_OF_A_TITLE: Final = 64


def stream_name(name: str) -> str:
    """Return the name of a stream.

    Raises:
        ValueError: If it cannot be one.
    """
    if not STREAM_NAME.fullmatch(name):
        raise ValueError(f"stream name '{name[:80]}' must be 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def stream_or_domain_name(name: str) -> str:
    """Return the name of a stream or of a domain of one.

    Raises:
        ValueError: If it can be neither.
    """
    return name if STREAM_OR_DOMAIN_NAME.fullmatch(name) else stream_name(name)


def domain_name(stream: str, number: int) -> str:
    """Return the name of a stream's domain; numbers begin with 1 and are not used again."""
    return f"{stream}{DOMAIN_SIGN}{number}"


def is_domain(name: str) -> bool:
    """Say whether a name is a domain's."""
    return DOMAIN_SIGN in name


def stream_of_domain(name: str) -> str:
    """Return the stream that a domain belongs to; a stream's own name for a stream."""
    return name.partition(DOMAIN_SIGN)[0]


def number_of(name: str) -> int:
    """Return the number of a domain."""
    return int(name.partition(DOMAIN_SIGN)[2])


def is_title(text: str) -> bool:
    """Say whether an operator may call a domain so."""
    return len(text) <= MOST_OF_A_TITLE and text.isprintable()
