"""What went wrong, for a person: code of others raises whatever it likes, over as many lines as it likes."""


def reason(error: BaseException, most: int | None = None) -> str:
    """Return in one line the kind of an error and what it says, at most so many characters of it."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:most]
