"""`/v1/streams/{name}/drift`: whether the input of a stream drifts, since when, and what says so."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from tta_server.api.answers import returns
from tta_server.api.bodies import StreamPath
from tta_server.api.drift_answers import DriftAbout
from tta_server.runtime.served import Served, find


def router(models: Mapping[str, Served]) -> APIRouter:
    """Return the route.

    Args:
        models: What is served; the first is meant here.
    """
    routes = APIRouter(prefix="/v1/streams/{name}/drift", tags=["drift"])
    served = find(models)

    @routes.get("", **returns(DriftAbout, 400, 404, 501))
    async def read_drift(name: StreamPath) -> dict[str, Any]:
        """Read state, scores and history of a stream's drift, and what its layers, classes and domains say."""
        found = await served.command(name, lambda c: c.drift.read(name))
        classes = [share | {"label": served.model.labels[share["index"]]} for share in found["classes"]]
        return found | {"classes": classes}

    return routes
