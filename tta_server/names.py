"""Names of streams, as the server takes them and whoever asks it checks them: none holds what would be another path."""

import re
from typing import Final

# Names of dots alone are no path segments: clients resolve them away.
STREAM_NAME: Final = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,64}")
# What a stream has learnt of one kind of input has a name too: `gate-7@2`; no caller may send images there.
STREAM_OR_DOMAIN_NAME: Final = re.compile(rf"{STREAM_NAME.pattern}(@[1-9][0-9]{{0,8}})?")


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
