"""What happened to streams, as the audit log has it."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query

from tta_server.api.bodies import StreamPath
from tta_server.api.responses import refusals
from tta_server.errors import NotFound
from tta_server.runtime.assemble import Kept
from tta_server.runtime.engine import Engine

_FLUSH_WITHIN_S = 2.0

Limit = Annotated[int, Query(ge=1, le=1000, description="Most entries in the answer.")]


def router(engine: Engine, kept: Kept) -> APIRouter:
    """Return the routes.

    Args:
        engine: Owns the streams.
        kept: Where the log is.
    """
    routes = APIRouter(prefix="/v1", tags=["audit"])

    async def newest(name: str, limit: int) -> dict[str, Any]:
        if not kept.durable:
            raise NotFound("nothing is kept: this server has no storage; set storage.url to a folder to have a log")

        def read() -> list[dict[str, Any]]:
            kept.keeper.flush(_FLUSH_WITHIN_S)  # what has just been done is in it, unless the disk fails
            return [entry.told() for entry in kept.audit.newest(name, limit)]

        entries = await asyncio.to_thread(read)
        if name and not entries:
            await asyncio.wrap_future(engine.command(lambda c: c.check(name)))
        return {"entries": entries}

    @routes.get("/audit", responses=refusals(400, 404))
    async def read_audit(limit: Limit = 100) -> dict[str, Any]:
        """Read what happened to streams, newest first; stream `*` stands for all of them."""
        return await newest("", limit)

    @routes.get("/streams/{name}/audit", responses=refusals(400, 404))
    async def read_audit_of_stream(name: StreamPath, limit: Limit = 100) -> dict[str, Any]:
        """Read what happened to one stream, newest first; also of one that was deleted."""
        return await newest(name, limit)

    return routes
