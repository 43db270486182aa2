"""What happens around every request: its name, the count of how it ended, and what the log says of it."""

import logging
import re
import time
from collections.abc import Callable

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tta_server.api.front.path import path_of
from tta_server.api.front.request_id import HEADER, name_request
from tta_server.errors import RateLimited, StreamsFull, Unsupported
from tta_server.telemetry.bursts import Bursts
from tta_server.telemetry.closed_sets import RequestOutcome
from tta_server.telemetry.log_format import fields
from tta_server.telemetry.metrics import Metrics

access_log = logging.getLogger("tta_server.access")

_PREDICTIONS = re.compile("/predict|/v2/models/(?P<model>[^/]+)(/versions/[^/]+)?/infer")
_STREAM = re.compile("/v1/streams/([^/]+)")
_MOST_CHARACTERS = 200


class Accounting:
    """Name every request, say in the log what is refused, and count requests for predictions by how they ended."""

    def __init__(
        self, app: ASGIApp, metrics: Callable[[str], Metrics | None], bursts: Bursts, access: bool = False
    ) -> None:
        """Wrap `app`.

        Args:
            app: What answers.
            metrics: Says where to count what names a model, or none; nowhere if that is not there.
            bursts: Tells what is refused.
            access: Whether the log has a line for each request.
        """
        self._app = app
        self._metrics = metrics
        self._bursts = bursts
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name_request(scope)
        status, code = 500, ""
        started_s = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status, code
            if message["type"] == "http.response.start":
                status = message["status"]
                named = HEADER.encode(), scope["state"]["request_id"].encode("latin-1")
                message["headers"] = [*message.get("headers", ()), named]
            elif status >= 400:
                code = code or _code(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            duration_s = time.perf_counter() - started_s
            asks = _PREDICTIONS.fullmatch(path_of(scope)) if scope["method"] == "POST" else None
            if asks and (metrics := self._metrics(asks["model"] or "")):
                metrics.request(_outcome(status, code), duration_s)
            if status >= 400:
                level = logging.WARNING if _is_ours(status) else logging.INFO
                self._bursts.refused(f"{code or 'http'} ({status})", level, **_about(scope))
            if self._access:
                said = f"{scope['method']} {path_of(scope)[:_MOST_CHARACTERS]} {status}"
                access_log.info(said, extra=fields(**_about(scope), duration_ms=round(1000 * duration_s, 1)))


def _about(scope: Scope) -> dict[str, str]:
    """Return what may be said of a request: nothing of its body, its query or its key."""
    path = path_of(scope)
    named = _STREAM.match(path)
    first = next((value for name, value in scope["headers"] if name == b"x-stream-id"), b"")  # as who answers reads it
    stream = named[1] if named else first.decode("latin-1")
    return {
        "method": scope["method"],
        "path": path[:_MOST_CHARACTERS],
        "stream": stream[:_MOST_CHARACTERS],
        "client": (scope.get("client") or ("",))[0],
        "request_id": scope["state"]["request_id"],
    }


def _code(body: bytes) -> str:
    """Return the code of an error from its answer; of the text, which may repeat what was sent, nothing."""
    try:
        return str(orjson.loads(body)["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def _outcome(status: int, code: str) -> RequestOutcome:
    if status < 400:
        return "ok"
    if code == StreamsFull.code:
        return "streams_full"
    if status in (429, 499) and code != RateLimited.code:
        return "overloaded" if status == 429 else "cancelled"
    return "error" if _is_ours(status) else "rejected"


def _is_ours(status: int) -> bool:
    """Return whether an error is the server's fault: not so where it is asked for what it does not do."""
    return status >= 500 and status != Unsupported.status
