"""A parser for what follows a head that asks for another protocol, which nobody gets here.

RFC 9110, section 7.8: a server may ignore `Upgrade`, and the body is then a body. httptools takes what follows such a
head for something else: the request would have no body, and its body would be the next request. curl and Java's client
ask for HTTP/2 in this way.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import httptools

_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))
_HEARD: Final = ("on_message_begin", "on_url", "on_header", "on_headers_complete", "on_body", "on_message_complete")


class _Behind:
    """Tell a connection what a parser finds, but for the head that the connection knows already."""

    def __init__(self, connection: object) -> None:
        self.knows_head = False
        self.has_body = True
        for heard in _HEARD:
            setattr(self, heard, partial(self._tell, heard, getattr(connection, heard)))

    def _tell(self, heard: str, hear: Callable[..., None], *said: bytes) -> None:
        if self.knows_head:
            hear(*said)
        elif heard == "on_message_complete":
            self.has_body = False


def parser_behind(
    connection: object, headers: Iterable[tuple[bytes, bytes]]
) -> tuple[httptools.HttpRequestParser, bool]:
    """Return a parser that goes on where a request's head has ended, and whether a body follows.

    Args:
        connection: Hears what comes, as httptools says it.
        headers: Of the head, with names in small letters.
    """
    behind = _Behind(connection)
    parser = httptools.HttpRequestParser(behind)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's is
    framing = b"".join(b"%s: %s\r\n" % header for header in headers if header[0] in _FRAMING)
    parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
    behind.knows_head = True
    return parser, behind.has_body
