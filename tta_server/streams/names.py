"""Names of domains: what stream `gate-7` learnt of the second kind of input that it met is `gate-7@2`."""

_SIGN = "@"  # no caller may use it in the name of a stream


MOST_OF_A_TITLE = 64


def is_title(text: str) -> bool:
    """Say whether an operator may call a domain so."""
    return len(text) <= MOST_OF_A_TITLE and text.isprintable()


def domain_name(stream: str, number: int) -> str:
    """Return the name of a stream's domain; numbers begin with 1 and are not used again."""
    return f"{stream}{_SIGN}{number}"


def is_domain(name: str) -> bool:
    """Say whether a name is a domain's."""
    return _SIGN in name


def stream_of_domain(name: str) -> str:
    """Return the stream that a domain belongs to; a stream's own name for a stream."""
    return name.partition(_SIGN)[0]


def number_of(name: str) -> int:
    """Return the number of a domain."""
    return int(name.partition(_SIGN)[2])
