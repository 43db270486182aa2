"""`/v1/streams`: look at streams, and put one back to the source model."""

import asyncio
from typing import Any

from fastapi import APIRouter

from tta_server.api.stream_id import stream_of
from tta_server.runtime.commands import Who
from tta_server.runtime.engine import Engine


def router(engine: Engine) -> APIRouter:
    """Return the routes; `engine` owns the streams."""
    routes = APIRouter(prefix="/v1/streams", tags=["streams"])

    @routes.get("")
    async def list_streams() -> dict[str, Any]:
        """List every stream with its mode, version and recent entropy."""
        return {"streams": await asyncio.wrap_future(engine.command(lambda c: c.list()))}

    @routes.get("/{name}")
    async def read_stream(name: str) -> dict[str, Any]:
        """Read one stream."""
        return await asyncio.wrap_future(engine.command(lambda c: c.read(stream_of(name))))

    @routes.post("/{name}/reset")
    async def reset_stream(name: str) -> dict[str, Any]:
        """Forget everything that a stream has learnt: it answers as the source model again."""
        return await asyncio.wrap_future(engine.command(lambda c: c.reset(stream_of(name), Who("api"))))

    return routes
