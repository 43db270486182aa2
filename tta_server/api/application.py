"""The application: around every request first this server's own layers, then FastAPI's."""

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp


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
        return ServerErrorMiddleware(app, handler=self.exception_handlers[Exception])
