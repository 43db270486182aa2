"""`/v1/calibrate`: take the next images as home, where no reference bundle was made of source images."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from tta_server.api.answers import returns
from tta_server.api.bodies import Gather
from tta_server.api.caller import Callers
from tta_server.api.front.document import Told
from tta_server.api.reading.json_body import JsonRoute
from tta_server.runtime.gathering import GatheringState
from tta_server.runtime.served import Served, find


class Gathered(Told):
    """How far images are taken as home."""

    state: GatheringState
    stream: str | None = Field(description="Whose images count; null for those of every stream.")
    images: int = Field(description="Different ones that were gathered.")
    wanted: int = Field(description="How many are needed.")
    said: str = Field(description="Where the bundle is, or why there is none; before, what limits whose images count.")


def router(models: Mapping[str, Served], callers: Callers) -> APIRouter:
    """Return the routes.

    Args:
        models: What is served; the first is meant here.
        callers: Knows who asks.
    """
    routes = APIRouter(prefix="/v1/calibrate", tags=["calibrate"], route_class=JsonRoute)
    gathering = find(models).gathering

    @routes.post("", **returns(Gathered, 400, 409, 413, status=202))
    async def calibrate(asked: Gather, request: Request) -> dict[str, Any]:
        """Make a reference bundle, without labels, of the next images that are answered; they are the home then.

        Answers stay as they are meanwhile: without a bundle, those of the frozen model. The bundle is made beside the
        server and written next to the weights, where the next start finds it. Without `stream` those of every stream
        count, at most a quarter of them from one.
        """
        return gathering.begin(asked.images, asked.stream or "", asked.replace, callers.who(request, asked.reason))

    @routes.get("", **returns(Gathered))
    async def read_calibration() -> dict[str, Any]:
        """Say how many images were gathered, and what became of them."""
        return gathering.told()

    @routes.delete("", **returns(Gathered, 409))
    async def cancel_calibration(request: Request) -> dict[str, Any]:
        """Stop gathering, or making the bundle, and forget the images."""
        return await gathering.cancel(callers.who(request))

    return routes
