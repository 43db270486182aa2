"""What went wrong, for a person: code of others raises whatever it likes, over as many lines as it likes."""

import re

_INTERPRETER = "TorchScript interpreter"
# What it says after its own tracebacks, whose lines begin otherwise.
_LAST = re.compile(r"\n(?=[\w.]*(?:Error|Exception): )")


def reason(error: BaseException, most: int | None = None) -> str:
    """Return in one line the kind of an error and what it says, at most so many characters of it."""
    said = f"{type(error).__name__}: {error}"
    if _INTERPRETER in said:
        said = _LAST.split(said.rstrip())[-1]
    return " ".join(said.split())[:most]
