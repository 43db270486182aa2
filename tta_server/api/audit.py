"""What happened to streams, as the audit log has it; without storage, its last lines in memory."""

import asyncio
from collections.abc import Container, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from tta_server.api.answers import AuditLines, returns
from tta_server.api.bodies import StreamPath
from tta_server.api.front.permission import key_of
from tta_server.api.patience import within
from tta_server.errors import Overloaded
from tta_server.keys.key import Key
from tta_server.runtime.served import Served, find
from tta_server.storage.audit import Entry

_FLUSH_WITHIN_S = 2.0
_MOST_READING = 4

Limit = Annotated[int, Query(ge=1, le=1000, description="Most entries in the answer.")]


def router(models: Mapping[str, Served]) -> APIRouter:
    """Return the routes.

    Args:
        models: What is served; the first is meant here.
    """
    routes = APIRouter(prefix="/v1", tags=["audit"])
    served = find(models)
    kept = served.storage
    declared = returns(AuditLines, 400, 404, 429)
    reading: set[asyncio.Task[tuple[list[Entry], int]]] = set()
    turn = asyncio.Lock()

    async def newest(key: Key, name: str, limit: int) -> dict[str, Any]:
        def read() -> tuple[list[Entry], int]:
            if not kept.durable:
                return kept.ring.newest(name, limit), 0
            # What has just been done is in it; where the disk fails it waits, and is asked for before the disk is.
            waiting = [] if kept.keeper.flush(_FLUSH_WITHIN_S) else kept.keeper.unwritten
            written = kept.audit.newest(name, limit)
            first = _first(waiting, name, {entry.as_line() for entry in written}, limit)
            return [*first, *written][:limit], len(first)

        async def in_turn() -> tuple[list[Entry], int]:
            async with turn:  # several at once would take the interpreter from whoever answers
                return await asyncio.to_thread(read)

        if len(reading) >= _MOST_READING:
            raise Overloaded(f"{len(reading)} others read the audit log or wait for it; try again later")
        reading.add(task := asyncio.create_task(in_turn()))
        task.add_done_callback(reading.discard)  # who has given up waiting still reads
        entries, unwritten = await within(task, "ask again later")
        if name and not entries:
            await served.command(name, lambda c: c.check(name))
        return {
            "entries": [_as_told_to(key, entry.told()) for entry in entries],
            "kept": "storage" if kept.durable else "memory",
            "unwritten": unwritten,
        }

    @routes.get("/audit", **declared)
    async def read_audit(request: Request, limit: Limit = 100) -> dict[str, Any]:
        """Read what happened to streams, newest first; stream `*` stands for all of them."""
        return await newest(key_of(request), "", limit)

    @routes.get("/streams/{name}/audit", **declared)
    async def read_audit_of_stream(request: Request, name: StreamPath, limit: Limit = 100) -> dict[str, Any]:
        """Read what happened to one stream, newest first; also of one that was deleted."""
        return await newest(key_of(request), name, limit)

    return routes


def _first(waiting: Sequence[Entry], name: str, written: Container[bytes], limit: int) -> list[Entry]:
    """Return the newest lines of one stream, or all, that wait and are not written, newest first."""
    of_it = (entry for entry in reversed(waiting) if name in ("", entry.stream))
    return list(islice((entry for entry in of_it if entry.as_line() not in written), limit))


def _as_told_to(key: Key, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a line without the names of other streams that a domain came from or went to, if a key is not for them."""
    extra = dict(entry["extra"])
    if isinstance(source := extra.get("from"), str) and not key.is_for_stream(source):
        del extra["from"]
    if entry["verdict"] == "offer":
        extra["to"] = list(filter(key.is_for_stream, extra.get("to", ())))
    return entry | {"extra": extra}
