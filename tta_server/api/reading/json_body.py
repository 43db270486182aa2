"""JSON bodies as every answer can repeat them: text that UTF-8 has, and nothing deeper than a parser goes."""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message

from tta_server.api.reading.encoding import body_of


class _Strict(Request):
    """Python's own parser lets half a character through, a lone surrogate, which no answer and no file could hold."""

    async def json(self) -> Any:  # noqa: ANN401
        """Return the body; a `json.JSONDecodeError` if it is no JSON of RFC 8259."""
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """A route whose body is JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            plain = await opened(request)
            return await handler(_Strict(plain.scope, plain.receive))

        return strict


async def opened(request: Request) -> Request:
    """Return a request with its body as it was before it was compressed, if it was.

    Raises:
        TTAError: As `body_of` does.
    """
    if "content-encoding" not in request.headers:
        return request
    whole: list[Message] = [{"type": "http.request", "body": await body_of(request), "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await request.receive()

    headers = [each for each in request.scope["headers"] if each[0] != b"content-encoding"]
    return Request(dict(request.scope) | {"headers": headers}, again)
