"""A span around every request, for who traces it through several services."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tta_server.telemetry.tracing import Tracer, note


class Tracing:
    """Open a span for each request, in the trace that its `traceparent` names."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        """Wrap `app`."""
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._tracer.request(f"{scope['method']} request", scope["headers"]) as span:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            try:
                await self._app(scope, receive, watched)
            finally:
                # The route's template, once it is known: paths that callers make up would be names without end.
                route = getattr(scope.get("route"), "path", "unknown")
                span.update_name(f"{scope['method']} {route}")
                span.set_attributes({"http.request.method": scope["method"], "http.route": route})
                note(request_id=scope["state"]["request_id"])
