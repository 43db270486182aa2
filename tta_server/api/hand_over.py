"""`POST /v1/hand-over`: what servers that share a place ask of one another."""

from collections.abc import Mapping

from fastapi import APIRouter, Request

from tta_server.api.bodies import HandOver
from tta_server.api.json_body import JsonRoute
from tta_server.api.responses import silent
from tta_server.errors import NotFound
from tta_server.runtime.served import Served, find
from tta_server.runtime.tenure import HAND_OVER


def router(models: Mapping[str, Served]) -> APIRouter:
    """Return the route.

    Args:
        models: What is served; the first is meant here.
    """
    routes = APIRouter(route_class=JsonRoute)
    served = find(models)

    @routes.post(HAND_OVER, **silent(), include_in_schema=False)
    async def hand_over_stream(asked: HandOver, request: Request) -> None:
        """Write everything of a stream that another server takes over; only servers that share the storage may ask."""
        if served.tenure is None:
            raise NotFound("this server shares its storage with no other (storage.shared)")
        await served.tenure.hand_over(asked.stream, request.headers.get("authorization", ""))

    return routes
