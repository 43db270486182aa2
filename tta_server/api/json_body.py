"""JSON bodies as every answer can repeat them: text that UTF-8 has, and nothing deeper than a parser goes."""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute


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
            return await handler(_Strict(request.scope, request.receive))

        return strict
