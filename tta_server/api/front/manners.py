"""What HTTP expects of every resource: HEAD wherever there is GET, and a 405 that says what is allowed."""

from collections.abc import Iterable

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """Answer HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, without_body)


def allowed(routes: Iterable[BaseRoute], scope: Scope) -> str:
    """Return what methods a path takes, as the header `Allow` has it."""
    known, methods = list(routes), set[str]()
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        asked = {**scope, "method": method}
        if any(route.matches(asked)[0] is Match.FULL for route in known):
            methods |= {method, "HEAD"} if method == "GET" else {method}
    return ", ".join(sorted(methods))
