"""The Open Inference Protocol's extensions about models: statistics, and the repository.

Source: triton-inference-server/server, docs/protocol/extension_statistics.md and extension_model_repository.md.
Differs: models are those of the configuration; none is loaded or unloaded while the server runs.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from tta_server.api.answers import told
from tta_server.api.metadata import VERSION, known
from tta_server.api.protocol_answers import IndexEntry, ServerStatistics
from tta_server.api.responses import refusals
from tta_server.errors import BadRequest, Unsupported
from tta_server.runtime.served import Served

_INDEX_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "title": "IndexBody",
                    "type": "object",
                    "properties": {"ready": {"type": "boolean", "description": "Only models that are ready."}},
                }
            }
        }
    }
}

_INDEX: dict[str, Any] = {
    "response_model": None,
    "responses": {200: {"model": list[IndexEntry], "description": "The models, in no order."}} | refusals(400),
}


def router(models: Mapping[str, Served]) -> APIRouter:
    """Return the routes; they come before those that take any model's name.

    Args:
        models: What is served.
    """
    routes = APIRouter(tags=["open inference protocol"])

    @routes.get("/v2/models/stats", **told(ServerStatistics))
    async def all_statistics() -> dict[str, Any]:
        """Say what each model has done since the start."""
        return _statistics(models.values())

    @routes.get("/v2/models/{name}/stats", **told(ServerStatistics, 404))
    @routes.get("/v2/models/{name}/versions/{version}/stats", **told(ServerStatistics, 404))
    async def statistics(name: str, version: str = VERSION) -> dict[str, Any]:
        """Say what a model has done since the start."""
        return _statistics([known(models, name, version)])

    @routes.post("/v2/repository/index", openapi_extra=_INDEX_OPENAPI, **_INDEX)
    async def index(request: Request) -> Response:
        """List the models and whether they are ready."""
        return _index(models, await request.body())

    @routes.post("/v2/repository/{repository}/index", openapi_extra=_INDEX_OPENAPI, **_INDEX)
    async def index_of_repository(request: Request, repository: str) -> Response:
        """List the models and whether they are ready; there is one repository, whatever it is called."""
        return _index(models, await request.body())

    @routes.post("/v2/repository/models/{name}/load", include_in_schema=False)
    async def load(name: str) -> None:
        """Refuse: the models are those of the configuration."""
        raise _stays(name, models)

    @routes.post("/v2/repository/models/{name}/unload", include_in_schema=False)
    async def unload(name: str) -> None:
        """Refuse: the models are those of the configuration."""
        raise _stays(name, models)

    return routes


def _index(models: Mapping[str, Served], body: bytes) -> Response:
    only_ready = _only_ready(body)
    found = [_entry(each) for each in models.values()]
    listed = [each for each in found if not only_ready or each["state"] == "READY"]
    return Response(orjson.dumps(listed), media_type="application/json")


def _stays(name: str, models: Mapping[str, Served]) -> Unsupported:
    return Unsupported(
        f"model '{name[:80]}' is neither loaded nor unloaded: this server serves what its configuration names "
        f"({', '.join(models)}) from start to stop; change 'model' there and restart it"
    )


def _only_ready(body: bytes) -> bool:
    try:
        asked = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON ({error})") from error
    ready = asked.get("ready", False) if isinstance(asked, dict) else None
    if not isinstance(ready, bool):
        raise BadRequest('the body must be an object such as {} or {"ready": true}')
    return ready


def _entry(served: Served) -> dict[str, str]:
    trouble = served.engine.trouble()
    return {"name": served.name, "version": VERSION, "state": "UNAVAILABLE" if trouble else "READY", "reason": trouble}


def _statistics(models: Iterable[Served]) -> dict[str, Any]:
    return {"model_stats": [_of(each) for each in models]}


def _of(served: Served) -> dict[str, Any]:
    totals = served.metrics.totals()
    good = int(totals["tta_requests_total", "ok"])
    requests = int(totals["tta_request_duration_seconds_count", ""])
    all_ns = int(totals["tta_request_duration_seconds_sum", ""] * 1e9)

    def stage(name: str) -> dict[str, int]:
        seconds = totals["tta_stage_duration_seconds_sum", name]
        return {"count": int(totals["tta_stage_duration_seconds_count", name]), "ns": int(seconds * 1e9)}

    none = {"count": 0, "ns": 0}
    # Durations are not told apart by outcome: both get their share of the time by their count.
    good_ns = all_ns * good // requests if requests else 0
    return {
        "name": served.name,
        "version": VERSION,
        "last_inference": 0,
        "inference_count": int(totals["tta_batch_size_images_sum", ""]),
        "execution_count": int(totals["tta_batch_size_images_count", ""]),
        "inference_stats": {
            "success": {"count": good, "ns": good_ns},
            "fail": {"count": requests - good, "ns": all_ns - good_ns},
            "queue": stage("queue"),
            "compute_input": stage("decode"),
            "compute_infer": stage("forward"),
            "compute_output": none,
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [],
        "memory_usage": [],
    }
