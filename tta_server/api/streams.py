"""`/v1/streams`: look at streams, open and delete them, and change how they learn."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from tta_server.api.bodies import Change, ChangeOfAll, Creation, Listing, Rollback, StreamPath, Why
from tta_server.api.caller import Callers
from tta_server.api.responses import refusals
from tta_server.errors import BadRequest, TTAError
from tta_server.runtime.engine import Engine


def router(engine: Engine, callers: Callers) -> APIRouter:
    """Return the routes.

    Args:
        engine: Owns the streams.
        callers: Knows who asks.
    """
    routes = APIRouter(prefix="/v1/streams", tags=["streams"])

    @routes.get("", responses=refusals(400))
    async def list_streams(asked: Annotated[Listing, Query()]) -> dict[str, Any]:
        """List streams by name, a page at a time; send `next` as `after` for the next page, null on the last."""
        found = await asyncio.wrap_future(engine.command(lambda c: c.list(asked.limit + 1, asked.after, asked.wants)))
        page = found[: asked.limit]
        return {"streams": page, "next": page[-1]["name"] if len(found) > asked.limit else None}

    @routes.post("", status_code=201, responses=refusals(400, 409, 429))
    async def create_stream(asked: Creation, request: Request) -> dict[str, Any]:
        """Open a stream before its first request."""
        who = callers.who(request, asked.reason)
        adapter = asked.adapter.section() if asked.adapter else None
        try:
            return await asyncio.wrap_future(engine.command(lambda c: c.create(asked.name, asked.mode, adapter, who)))
        except ValueError as error:
            raise BadRequest(str(error)) from error

    @routes.patch("", responses=refusals(400))
    async def change_streams(asked: ChangeOfAll, request: Request) -> dict[str, Any]:
        """Switch every stream at once, existing and to come; `off` has the frozen model answer everywhere.

        What is set later for one stream wins. Streams that the guard froze stay off. New streams, and those that are
        on disk only, follow the configuration again when the server has been restarted.
        """
        mode = None if asked.mode == "configured" else asked.mode
        who = callers.who(request, asked.reason)
        return await asyncio.wrap_future(engine.command(lambda c: c.change_all(mode, who)))

    @routes.get("/{name}", responses=refusals(400, 404))
    async def read_stream(name: StreamPath) -> dict[str, Any]:
        """Read everything about one stream."""
        return await asyncio.wrap_future(engine.command(lambda c: c.read(name)))

    @routes.patch("/{name}", responses=refusals(400, 404))
    async def change_stream(name: StreamPath, asked: Change, request: Request) -> dict[str, Any]:
        """Switch a stream's mode, its adapter's settings, or both."""
        who = callers.who(request, asked.reason)
        adapter = asked.adapter.section() if asked.adapter else None
        try:
            return await asyncio.wrap_future(engine.command(lambda c: c.change(name, asked.mode, adapter, who)))
        except ValueError as error:
            raise BadRequest(str(error)) from error

    @routes.delete("/{name}", status_code=204, responses=refusals(400, 404))
    async def delete_stream(name: StreamPath, request: Request) -> None:
        """Erase everything of a stream: memory, files and metric series; its lines of the audit log stay."""
        who = callers.who(request)
        erased = await asyncio.wrap_future(engine.command(lambda c: c.delete(name, who)))
        try:
            await asyncio.wrap_future(erased)
        except OSError as error:
            raise TTAError(f"the stream is gone, but its files cannot be erased yet: {error}") from error

    @routes.post("/{name}/evict", status_code=204, responses=refusals(400, 404))
    async def evict_stream(name: StreamPath) -> None:
        """Move a stream to disk until it is asked again; nothing of it is lost."""
        await asyncio.wrap_future(engine.command(lambda c: c.evict(name)))

    @routes.post("/{name}/reset", responses=refusals(400, 404))
    async def reset_stream(name: StreamPath, request: Request, asked: Why | None = None) -> dict[str, Any]:
        """Forget everything that a stream has learnt: it answers as the source model again."""
        who = callers.who(request, asked.reason if asked else "")
        return await asyncio.wrap_future(engine.command(lambda c: c.reset(name, who)))

    @routes.post("/{name}/rollback", responses=refusals(400, 404))
    async def roll_back_stream(name: StreamPath, asked: Rollback, request: Request) -> dict[str, Any]:
        """Go back to a version that is kept, by default to the newest that passed the guard's complete check."""
        who = callers.who(request, asked.reason)
        return await asyncio.wrap_future(engine.command(lambda c: c.rollback(name, asked.version, who)))

    return routes
