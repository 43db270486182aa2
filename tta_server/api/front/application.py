"""The application: around every request first this server's own layers, then FastAPI's."""

import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tta_server.api.front.path import path_of

log = logging.getLogger(__name__)


class Application(FastAPI):
    """FastAPI within the layers that are added to it; by itself it would have its own around those.

    Those are telemetry and a limit on bodies, of which this server has others. Requests for predictions, which FastAPI
    never sees (see `Hot`), would have to pass them all the same.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """Return what answers requests; what nobody expected is answered and logged, wherever it was raised."""
        layers, self.user_middleware = self.user_middleware, []
        app = super().build_middleware_stack()
        self.user_middleware = layers
        for layer in reversed(layers):
            app = layer.cls(app, *layer.args, **layer.kwargs)
        return _Unexpected(app, self.exception_handlers[Exception])  # type: ignore[arg-type]


class _Unexpected:
    """Log what nobody expected, and answer it where FastAPI has not: it raises it again when it has.

    The connection stays, as after any answer; one that ends amid an answer is uvicorn's to close.
    """

    def __init__(self, app: ASGIApp, handler: Callable[[Request, Exception], Awaitable[Response]]) -> None:
        self._app = app
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = ended = False

        async def watched(message: Message) -> None:
            nonlocal begun, ended
            begun = True
            await send(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http" or (begun and not ended):
                raise
            log.error("%s %s failed", scope["method"], path_of(scope), exc_info=error)
            if not ended:
                response = await self._handler(Request(scope), error)
                await response(scope, receive, send)
