"""`/v1/streams`: look at streams, open and delete them, and change how they learn."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from tta_server.api.answers import StreamDetails, StreamPage, Switched, returns
from tta_server.api.bodies import AdapterBody, Change, ChangeOfAll, Creation, Listing, Rollback, StreamPath, Why
from tta_server.api.caller import Callers
from tta_server.api.front.document import silent
from tta_server.api.front.permission import key_of
from tta_server.api.patience import within
from tta_server.api.reading.json_body import JsonRoute
from tta_server.errors import BadRequest, TTAError
from tta_server.runtime.result import result_of
from tta_server.runtime.served import Served, find
from tta_server.streams.stream import Method
from tta_server.streams.summary import Listed

_PART_S = 0.03  # so long a list may hold answers up at a time


def router(models: Mapping[str, Served], callers: Callers) -> APIRouter:
    """Return the routes.

    Args:
        models: What is served; the first is meant here.
        callers: Knows who asks.
    """
    routes = APIRouter(prefix="/v1/streams", tags=["streams"], route_class=JsonRoute)
    served = find(models)
    engine = served.engine
    declared = returns(StreamDetails, 400, 404)

    @routes.get("", **returns(StreamPage, 400))
    async def list_streams(asked: Annotated[Listing, Query()], request: Request) -> dict[str, Any]:
        """List streams by name, a page at a time; send `next` as `after` for the next page, null on the last.

        Where servers share their storage these are the streams that the server `replica` has, and no others.
        """
        mine = key_of(request).is_for_stream

        def listed(after: str, most: int) -> Future[Listed]:
            return engine.command(lambda c: c.list(most, after, mine, asked.wants, _PART_S))

        part = Listed([], asked.after)
        found = list[dict[str, Any]]()
        while part.left is not None:  # whole pages may have to be read, and answers go on in between
            part = await result_of(listed(part.left, asked.limit + 1 - len(found)))
            found += part.streams
        page = found[: asked.limit]
        after = page[-1]["name"] if len(found) > asked.limit else None
        return {"streams": page, "next": after, "replica": served.storage.store.replica}

    @routes.post("", **returns(StreamDetails, 400, 409, 429, status=201))
    async def create_stream(asked: Creation, request: Request) -> dict[str, Any]:
        """Open a stream before its first request."""
        key_of(request).expect_streams(asked.name)
        who = callers.who(request, asked.reason)
        method = await _fitting(served, asked.adapter)
        return await served.command(asked.name, lambda c: c.create(asked.name, asked.mode, method, who), opening=True)

    @routes.patch("", **returns(Switched, 400))
    async def change_streams(asked: ChangeOfAll, request: Request) -> dict[str, Any]:
        """Switch every stream at once, existing and to come; `off` has the frozen model answer everywhere.

        What is set later for one stream wins. Streams that the guard froze stay off. New streams, and those that are
        on disk only, follow the configuration again when the server has been restarted. Where servers share their
        storage only the server `replica` was told.
        """
        mode = None if asked.mode == "configured" else asked.mode
        who = callers.who(request, asked.reason)
        switched = await result_of(engine.command(lambda c: c.change_all(mode, who)))
        return switched | {"replica": served.storage.store.replica}

    @routes.get("/{name}", **declared)
    async def read_stream(name: StreamPath) -> dict[str, Any]:
        """Read everything about one stream."""
        return await served.command(name, lambda c: c.read(name))

    @routes.patch("/{name}", **declared)
    async def change_stream(name: StreamPath, asked: Change, request: Request) -> dict[str, Any]:
        """Switch a stream's mode, its adapter's settings, or both."""
        who = callers.who(request, asked.reason)
        method = await _fitting(served, asked.adapter)
        return await served.command(name, lambda c: c.change(name, asked.mode, method, who))

    @routes.delete("/{name}", **silent(400, 404))
    async def delete_stream(name: StreamPath, request: Request) -> None:
        """Erase everything of a stream: memory, files and metric series; its lines of the audit log stay."""
        who = callers.who(request)
        await erased(await served.command(name, lambda c: c.delete(name, who)), "it is gone", "its files")

    @routes.post("/{name}/evict", **silent(400, 404))
    async def evict_stream(name: StreamPath) -> None:
        """Move a stream to disk until it is asked again; nothing of it is lost."""
        await served.command(name, lambda c: c.evict(name))

    @routes.post("/{name}/reset", **declared)
    async def reset_stream(name: StreamPath, request: Request, asked: Why | None = None) -> dict[str, Any]:
        """Forget everything that a stream has learnt: it answers as the source model again."""
        who = callers.who(request, asked.reason if asked else "")
        about, files = await served.command(name, lambda c: c.reset(name, who))
        await erased(files, "it is reset", "the files of its domains")
        return about

    @routes.post("/{name}/rollback", **returns(StreamDetails, 400, 404, 409))
    async def roll_back_stream(name: StreamPath, asked: Rollback, request: Request) -> dict[str, Any]:
        """Go back to a version that is kept, by default to the newest that passed the guard's complete check."""
        who = callers.who(request, asked.reason)
        return await served.command(name, lambda c: c.rollback(name, asked.version, who))

    return routes


async def erased(files: "Future[None]", done: str, which: str) -> None:
    """Wait until the files of what is gone from memory are erased.

    Args:
        files: When they are.
        done: What holds whether they are or not, for the caller.
        which: The files, for the caller.

    Raises:
        TTAError: If they cannot be yet, or the storage says nothing.
    """
    try:
        await within(result_of(files), f"{done}, and {which} will be erased once the storage answers")
    except OSError as error:
        raise TTAError(f"{done}, but {which} cannot be erased yet, which is tried again: {error}") from error


async def _fitting(served: Served, asked: AdapterBody | None) -> Method | None:
    """Return how a stream is to learn, made off the device thread; None if nothing is said of it.

    Raises:
        BadRequest: If the adapter's name, a setting or a value is wrong, or it does not fit.
    """
    if asked is None:
        return None
    try:
        return await asyncio.to_thread(served.methods.prepare, asked.section())
    except ValueError as error:
        raise BadRequest(str(error)) from error
