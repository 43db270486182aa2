"""States as files: snapshots that the server keeps, and files that go from one server to another."""

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from tta_server.api.answers import SnapshotList, SnapshotTaken, StreamDetails, returns
from tta_server.api.bodies import Note, Restore, StreamPath
from tta_server.api.caller import Callers
from tta_server.api.front.document import refusals
from tta_server.api.patience import within
from tta_server.api.reading.json_body import JsonRoute
from tta_server.errors import BadRequest, TTAError
from tta_server.runtime.result import result_of
from tta_server.runtime.served import Served, find

_FILE = "application/octet-stream"
_MOST_HEADER_BYTES = 2**20
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_DOWNLOAD: dict[int | str, dict[str, Any]] = {200: {"content": {_FILE: _BINARY}, "description": "A safetensors file"}}
_UPLOAD: dict[str, Any] = {"requestBody": {"required": True, "content": {_FILE: _BINARY}}}


def router(models: Mapping[str, Served], callers: Callers) -> APIRouter:
    """Return the routes.

    Args:
        models: What is served; the first is meant here.
        callers: Knows who asks.
    """
    routes = APIRouter(prefix="/v1/streams/{name}", tags=["states"], route_class=JsonRoute)
    served = find(models)

    @routes.get("/snapshots", **returns(SnapshotList, 400, 404))
    async def list_snapshots(name: StreamPath) -> dict[str, Any]:
        """List a stream's snapshots, oldest first."""
        await served.command(name, lambda c: c.check(name))
        asked = asyncio.to_thread(served.storage.store.snapshots, name)
        found = await within(asked, "ask again later")
        return {"snapshots": [dataclasses.asdict(snapshot) for snapshot in found]}

    @routes.post("/snapshots", **returns(SnapshotTaken, 400, 404, 409, status=201))
    async def take_snapshot(name: StreamPath, request: Request, asked: Note | None = None) -> dict[str, Any]:
        """Keep the state that a stream has now; the oldest snapshots beyond `storage.keep_snapshots` go."""
        note = asked.note if asked else ""
        written = await served.command(name, lambda c: c.states.snapshot(name, note))
        try:
            snapshot = await within(result_of(written), "the snapshot may still be kept")
        except OSError as error:
            raise TTAError(f"the snapshot cannot be written: {error}") from error
        who = callers.who(request, note)
        await served.command(name, lambda c: c.states.note_snapshot(name, snapshot, who))
        return {"id": snapshot}

    @routes.post("/restore", **returns(StreamDetails, 400, 404, 409))
    async def restore_snapshot(name: StreamPath, asked: Restore, request: Request) -> dict[str, Any]:
        """Go back to a snapshot, under a new version."""
        who = callers.who(request, asked.reason)
        return await served.command(name, lambda c: c.states.restore(name, asked.snapshot, who))

    @routes.get("/state", response_class=Response, responses=_DOWNLOAD | refusals(400, 404, 409))
    async def export_state(name: StreamPath) -> Response:
        """Return what a stream has learnt as a safetensors file that says what it belongs to."""
        data = await served.command(name, lambda c: c.states.export(name))
        disposition = f'attachment; filename="{name}.safetensors"'
        return Response(data, media_type=_FILE, headers={"Content-Disposition": disposition})

    @routes.put("/state", openapi_extra=_UPLOAD, **returns(StreamDetails, 400, 404, 409, 413, 429))
    async def import_state(name: StreamPath, request: Request) -> dict[str, Any]:
        """Have a stream go on from such a file, under a new version; model and adapter must be the file's.

        A stream that is not there is opened. A stream that tells domains apart opens a domain for the file of one.
        """
        data = await request.body()
        if not data:
            raise BadRequest("the body is empty; send the file that GET /state gave")
        if int.from_bytes(data[:8], "little") > _MOST_HEADER_BYTES:  # of a safetensors file, before anybody reads it
            raise BadRequest("not a state file of this server, or a damaged one; export the state again")
        who = callers.who(request)
        return await served.command(name, lambda c: c.states.adopt(name, data, who), opening=True)

    return routes
