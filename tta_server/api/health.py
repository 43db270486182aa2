"""Health, readiness and metrics: what probes and Prometheus ask; never queued behind traffic."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from tta_server.api.answers import Liveness, Readiness, returns
from tta_server.api.front.permission import key_of
from tta_server.runtime.served import Served
from tta_server.telemetry.metrics import Exposition

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format"}
}


def router(models: Mapping[str, Served]) -> APIRouter:
    """Return the routes; a server is as well as the worst of its models."""
    routes = APIRouter(tags=["health"])

    @routes.get("/livez", include_in_schema=False)
    @routes.get("/healthz", include_in_schema=False)
    @routes.get("/health", include_in_schema=False)
    @routes.get("/v2/health/live", **returns(Liveness, also=[503]))
    async def live() -> Response:
        """Tell that the process answers; 503 when only a restart helps."""
        return _health("live", next((each.engine.trouble() for each in models.values() if each.engine.broken), ""))

    @routes.get("/readyz", include_in_schema=False)
    @routes.get("/v2/health/ready", **returns(Readiness, also=[503]))
    async def ready() -> Response:
        """Tell whether a good request would be answered; 503 with the reason if not."""
        return _health("ready", next(filter(None, (each.trouble() for each in models.values())), ""))

    exposition = Exposition(lambda: [each.metrics for each in models.values()])

    @routes.get("/metrics", response_class=Response, responses=_METRICS)
    def metrics(request: Request) -> Response:  # not async: rendering runs in a thread
        """Return every metric in Prometheus' text format, at most a second old; `Cache-Control: no-cache` renders anew.

        What is reset or deleted is gone from the next answer on. It is of all models, and for keys of all of them.
        """
        for name in models:
            key_of(request).expect_model(name, "all of them")
        return Response(exposition.text("no-cache" in request.headers.get("cache-control", "")), media_type=_TEXT)

    return routes


def _health(what: str, trouble: str) -> Response:
    body = {what: False, "error": trouble} if trouble else {what: True}
    return Response(orjson.dumps(body), status_code=503 if trouble else 200, media_type="application/json")
