"""Health, readiness and metrics: what probes and Prometheus ask; never queued behind traffic."""

import orjson
from fastapi import APIRouter, Response

from tta_server.runtime.engine import Engine
from tta_server.telemetry.metrics import Metrics


def router(engine: Engine, metrics: Metrics) -> APIRouter:
    """Return the routes; `engine` knows whether it is ready."""
    routes = APIRouter(tags=["health"])

    @routes.get("/livez", include_in_schema=False)
    @routes.get("/v2/health/live")
    async def live() -> Response:
        """Tell that the process answers; 503 when only a restart helps."""
        return _health("live", engine.trouble() if engine.broken else "")

    @routes.get("/readyz", include_in_schema=False)
    @routes.get("/v2/health/ready")
    async def ready() -> Response:
        """Tell whether a good request would be answered; 503 with the reason if not."""
        return _health("ready", engine.trouble())

    @routes.get("/metrics")
    def render() -> Response:  # not async: rendering runs in a thread
        """Return every metric in Prometheus' text format."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


def _health(what: str, trouble: str) -> Response:
    body = {what: False, "error": trouble} if trouble else {what: True}
    return Response(orjson.dumps(body), status_code=503 if trouble else 200, media_type="application/json")
