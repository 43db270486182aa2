"""The Open Inference Protocol's extensions about models: statistics, and the repository.

Source: triton-inference-server/server, docs/protocol/extension_statistics.md and extension_model_repository.md.
Differs: models are those of the configuration, and are loaded as it says.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from tta_server.api.answers import returns
from tta_server.api.front.document import described, refusals
from tta_server.api.front.permission import key_of
from tta_server.api.protocol.metadata import OF_VERSION, VERSION
from tta_server.api.protocol.protocol_answers import IndexEntry, Loaded, ServerStatistics, Unloaded
from tta_server.api.reading.json_body import JsonRoute
from tta_server.errors import BadRequest
from tta_server.keys.key import Key
from tta_server.runtime.roster import Roster
from tta_server.runtime.served import Served, find

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

_CHANGE_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "title": "ChangeBody",
                    "type": "object",
                    "properties": {
                        "parameters": {
                            "type": "object",
                            "properties": {"unload_dependents": {"description": "Without effect: there are none."}},
                            "additionalProperties": False,
                        }
                    },
                }
            }
        }
    }
}
_REFUSED = (400, 404, 409)

_INDEX: dict[str, Any] = {
    "response_model": None,
    "responses": {200: described(IndexEntry, "The models, in no order.", every=True)} | refusals(400),
}


def router(models: Roster) -> APIRouter:
    """Return the routes; they come before those that take any model's name.

    Args:
        models: What is served.
    """
    routes = APIRouter(tags=["open inference protocol"], route_class=JsonRoute)

    @routes.get("/v2/models/stats", **returns(ServerStatistics))
    async def all_statistics(request: Request) -> dict[str, Any]:
        """Say what each model that the key is for has done since the start."""
        key = key_of(request)
        return _statistics(each for each in models.values() if key.is_for_model(each.name))

    @routes.get("/v2/models/{name}/stats", **returns(ServerStatistics, 404))
    @routes.get("/v2/models/{name}/versions/{version}/stats", dependencies=OF_VERSION, **returns(ServerStatistics, 404))
    async def statistics(name: str) -> dict[str, Any]:
        """Say what a model has done since the start."""
        return _statistics([find(models, name)])

    @routes.post("/v2/repository/index", openapi_extra=_INDEX_OPENAPI, **_INDEX)
    async def model_index(request: Request) -> Response:
        """List the models that the key is for, and whether they are ready."""
        return _index(models, await request.body(), key_of(request))

    @routes.post("/v2/repository/{repository}/index", openapi_extra=_INDEX_OPENAPI, **_INDEX)
    async def index_of_repository(request: Request, repository: str) -> Response:
        """List the models and whether they are ready; there is one repository, whatever it is called."""
        return _index(models, await request.body(), key_of(request))

    @routes.post("/v2/repository/models/{name}/load", openapi_extra=_CHANGE_OPENAPI, **returns(Loaded, *_REFUSED))
    async def load_model(request: Request, name: str) -> dict[str, Any]:
        """Load a model that the configuration names; one that is loaded stays as it is."""
        _expect_plain(await request.body())
        await asyncio.to_thread(models.load, name)
        return {"name": name, "load": True}

    @routes.post("/v2/repository/models/{name}/unload", openapi_extra=_CHANGE_OPENAPI, **returns(Unloaded, *_REFUSED))
    async def unload_model(request: Request, name: str) -> dict[str, Any]:
        """Unload a model: what it has been asked is answered, what it has learnt is kept, and its memory is freed."""
        _expect_plain(await request.body())
        await asyncio.to_thread(models.unload, name)
        return {"name": name, "unload": True}

    return routes


def _index(models: Roster, body: bytes, key: Key) -> Response:
    only_ready = _only_ready(body)
    found = [_entry(models, name) for name in models.names if key.is_for_model(name)]
    listed = [each for each in found if not only_ready or each["state"] == "READY"]
    return Response(orjson.dumps(listed), media_type="application/json")


def _only_ready(body: bytes) -> bool:
    ready = _object(body).get("ready", False)
    if not isinstance(ready, bool):
        raise BadRequest('the body must be an object such as {} or {"ready": true}')
    return ready


def _expect_plain(body: bytes) -> None:
    """Refuse what would have a model differ from its configuration."""
    parameters = _object(body).get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest("'parameters' must be an object")
    if other := sorted(parameters.keys() - {"unload_dependents"}):
        raise BadRequest(f"parameter '{other[0][:80]}' is not taken: models are loaded as the configuration says")


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise BadRequest("the body must be a JSON object, or empty")
    return found


def _entry(models: Roster, name: str) -> dict[str, str]:
    served = models.get(name)
    trouble = served.trouble() if served else "unloaded"
    return {"name": name, "version": VERSION, "state": "UNAVAILABLE" if trouble else "READY", "reason": trouble}


def _statistics(models: Iterable[Served]) -> dict[str, Any]:
    return {"model_stats": [_of(each) for each in models]}


def _of(served: Served) -> dict[str, Any]:
    totals = served.metrics.totals()
    good = int(totals["tta_requests_total", "ok"])
    requests = int(totals["tta_request_duration_seconds_count", ""])
    all_ns = int(totals["tta_request_duration_seconds_sum", ""] * 1e9)

    def spent(*stages: str) -> dict[str, int]:
        count = sum(totals["tta_stage_duration_seconds_count", each] for each in stages)
        seconds = sum(totals["tta_stage_duration_seconds_sum", each] for each in stages)
        return {"count": int(count), "ns": int(seconds * 1e9)}

    none = {"count": 0, "ns": 0}
    # Durations are not told apart by outcome: both get their share of the time by their count.
    good_ns = all_ns * good // requests if requests else 0
    return {
        "name": served.name,
        "version": VERSION,
        "last_inference": int(1000 * served.metrics.answered_s),
        "inference_count": int(totals["tta_batch_size_images_sum", ""]),
        "execution_count": int(totals["tta_batch_size_images_count", ""]),
        "inference_stats": {
            "success": {"count": good, "ns": good_ns},
            "fail": {"count": requests - good, "ns": all_ns - good_ns},
            "queue": spent("queue"),
            "compute_input": spent("decode"),
            "compute_infer": spent("route", "forward"),  # the first answers most of what is at home
            "compute_output": none,
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [],
        "memory_usage": [],
    }
