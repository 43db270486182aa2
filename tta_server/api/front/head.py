"""What a head must be: one that several servers in a row understand in one way (RFC 9112)."""

from collections.abc import Callable, Sequence
from typing import Final

from tta_server.errors import BadRequest, TTAError, Unsupported

_ONCE: Final = frozenset(
    (
        b"host",
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"inference-header-content-length",
        b"origin",
        b"transfer-encoding",
        b"x-actor",
        b"x-stream-id",
    )
)
"""Headers that decide something: of two, one reader takes the first and another the last."""

_ADDED_TO: Final = frozenset((b"x-forwarded-for",))  # a proxy may add a line of its own


def trouble_with(
    headers: Sequence[tuple[bytes, bytes]], version: Callable[[], str], client_header: str
) -> TTAError | None:
    """Return why a head is refused, or None.

    Args:
        headers: With names in small letters.
        version: Says the version of HTTP, such as `1.1`.
        client_header: That by which proxies name clients; empty if they have none of their own.
    """
    named = dict(headers)
    if len(named) < len(headers) and (twice := repeated(headers, client_header)):
        return twice
    if b"host" not in named and version() != "1.0":
        return BadRequest("the header 'host' is missing, which every request of HTTP/1.1 has")
    first, comma, last = named.get(b"transfer-encoding", b"").rpartition(b",")
    if comma and last.strip().lower() == b"chunked":  # the parser refuses what else it is
        return Unsupported(f"this server reads no Transfer-Encoding but 'chunked', got {first.decode('latin-1')!r} too")
    return None


def repeated(headers: Sequence[tuple[bytes, bytes]], client_header: str) -> BadRequest | None:
    """Return why headers are refused of which one that decides something is there twice, or None.

    Args:
        headers: With names in small letters.
        client_header: As above.
    """
    once, names = _ONCE | {client_header.lower().encode()} - _ADDED_TO, [name for name, _ in headers]
    twice = next((name for name in names if name in once and names.count(name) > 1), None)
    return BadRequest(f"the header '{twice.decode('latin-1')}' is there more than once") if twice else None
