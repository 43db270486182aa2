"""Who calls, for a window, which one client may not fill, and for the audit log; and whether he still waits."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request

from tta_server.runtime.desk import Who

_MOST_CHARACTERS = 64


class Callers:
    """Say who sent a request. Names are what the caller or a proxy says: nobody is authenticated here."""

    def __init__(self, client_header: str = "") -> None:
        """Take clients' names from a header that a proxy sets; by default the peer's address is the name."""
        self._client_header = client_header

    def client(self, request: Request) -> str:
        """Return who sent images."""
        named = request.headers.get(self._client_header, "") if self._client_header else ""
        return _shown(named) or (request.client.host if request.client else "")

    def who(self, request: Request, reason: str = "") -> Who:
        """Return who asks for a change, by the header `X-Actor` or else as client, and why."""
        return Who(_shown(request.headers.get("x-actor", "")) or self.client(request) or "unknown", reason)


def hung_up(request: Request) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return what returns when the caller has hung up; the request's body must have been read."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass  # what is left of a form's body

    return wait


def _shown(text: str) -> str:
    return "".join(character for character in text if character.isprintable()).strip()[:_MOST_CHARACTERS]
