"""A server without keys and the browsers around it: no other website gets anything out of it or done by it."""

import re
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from tta_server.api.front.responses import MOST_SHOWN, error_response_of
from tta_server.errors import Forbidden
from tta_server.telemetry.closed_sets import TurnedAway

_CHANGES_NOTHING: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_NO_WEBSITE: Final = re.compile(rb"(\[[0-9a-f:.]+\]|[0-9.]+|([^:]+\.)?localhost)(:[0-9]*)?", re.IGNORECASE)
_REMEDY: Final = "set auth.keys_file, or auth.insecure_public where a proxy guards the server"


class OwnPages:
    """Let requests pass but those that a website other than the server's own pages has a browser send.

    A website can have its name lead here, and then read everything: so a host must be an address or `localhost`, which
    no website is. And it can have any request sent without reading the answer: the browser says by whom.
    """

    def __init__(self, app: ASGIApp, refused: Callable[[TurnedAway], None], any_host: bool = False) -> None:
        """Wrap `app`.

        Args:
            app: What answers.
            refused: Hears what is refused.
            any_host: Whether the server may be asked by any name.
        """
        self._app = app
        self._refused = refused
        self._any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and (why := self._wrong(scope)):
            self._refused("forbidden")
            await error_response_of(Forbidden(f"{why}; {_REMEDY}"), {"Connection": "close"})(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _wrong(self, scope: Scope) -> str:
        """Return why a request is refused; empty if it is not."""
        headers = dict(scope["headers"])
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        if host and not self._any_host and not _NO_WEBSITE.fullmatch(host):
            return f"a server without keys is asked by an address or as localhost, not as {_shown(host)}"
        if origin is None or scope["method"] in _CHANGES_NOTHING:
            return ""
        if host and origin.lower() == b"%s://%s" % (scope["scheme"].encode(), host.lower()):
            return ""
        return f"a server without keys does nothing for another website, here {_shown(origin)}"


def _shown(value: bytes) -> str:
    return repr(value.decode("latin-1")[:MOST_SHOWN])
