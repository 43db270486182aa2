"""Who calls: for a stream's window, which one client may not fill, and for the audit log."""

from fastapi import Request

from tta_server.runtime.commands import Who

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


def _shown(text: str) -> str:
    return "".join(character for character in text if character.isprintable()).strip()[:_MOST_CHARACTERS]
