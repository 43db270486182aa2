"""`POST /v1/hand-over`: what servers that share a place ask of one another."""

from fastapi import APIRouter

from tta_server.api.bodies import HandOver
from tta_server.api.front.document import silent
from tta_server.api.reading.json_body import JsonRoute
from tta_server.runtime.tenure import HAND_OVER, Tenure


def router(tenure: Tenure) -> APIRouter:
    """Return the route; who may ask, the gatekeeper knows.

    Args:
        tenure: Has the streams.
    """
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(HAND_OVER, **silent(), include_in_schema=False)
    async def hand_over_stream(asked: HandOver) -> None:
        """Write everything of a stream that another server takes over; only servers that share the storage may ask."""
        await tenure.hand_over(asked.stream)

    return routes
