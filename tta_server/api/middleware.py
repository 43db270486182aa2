"""What happens around every request for predictions: its name, and the count of how it ended."""

import time
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tta_server.api.path import path_of
from tta_server.api.request_id import HEADER, name_request
from tta_server.telemetry.closed_sets import RequestOutcome
from tta_server.telemetry.metrics import Metrics


class Accounting:
    """Count every request for predictions once, with its outcome and duration; its answer says what it is called."""

    def __init__(self, app: ASGIApp, metrics: Mapping[str, Metrics]) -> None:
        """Wrap `app`.

        Args:
            app: What answers.
            metrics: Of each model, by name; the first gets what names no model, or none that is served.
        """
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or not _asks_for_predictions(scope):
            await self._app(scope, receive, send)
            return
        name_request(scope)
        status = 500
        started_s = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = scope["state"]["request_id"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            metrics = self._metrics.get(_model(scope)) or next(iter(self._metrics.values()))
            metrics.request(_outcome(status), time.perf_counter() - started_s)


def _asks_for_predictions(scope: Scope) -> bool:
    path = path_of(scope)
    return bool(scope["method"] == "POST") and (
        path == "/predict" or (path.startswith("/v2/") and path.endswith("/infer"))
    )


def _model(scope: Scope) -> str:
    """Return the model that the path names, or an empty string."""
    path = path_of(scope)
    return path.removeprefix("/v2/models/").partition("/")[0] if path.startswith("/v2/models/") else ""


def _outcome(status: int) -> RequestOutcome:
    if status < 400:
        return "ok"
    if status in (429, 499):
        return "overloaded" if status == 429 else "cancelled"
    return "rejected" if status < 500 else "error"
