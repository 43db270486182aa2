"""`/v1/streams/{name}/domains`: the kinds of input that a stream tells apart, and what it learnt of each."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request

from tta_server.api.answers import DomainAbout, DomainList, DomainsOpened, returns
from tta_server.api.bodies import DomainPath, Offer, Rename, StreamPath
from tta_server.api.caller import Callers
from tta_server.api.front.document import silent
from tta_server.api.front.permission import key_of
from tta_server.api.reading.json_body import JsonRoute
from tta_server.api.streams import erased
from tta_server.runtime.commands.stream_commands import Commands
from tta_server.runtime.served import Served, find


def router(models: Mapping[str, Served], callers: Callers) -> APIRouter:
    """Return the routes.

    Args:
        models: What is served; the first is meant here.
        callers: Knows who asks.
    """
    routes = APIRouter(prefix="/v1/streams/{name}/domains", tags=["domains"], route_class=JsonRoute)
    served = find(models)

    @routes.get("", **returns(DomainList, 400, 404))
    async def list_domains(name: StreamPath) -> dict[str, Any]:
        """List what a stream tells apart: what is at home, and each domain that it has met."""
        return {"domains": await served.command(name, lambda c: c.domains.describe(name))}

    @routes.patch("/{number}", **returns(DomainAbout, 400, 404))
    async def rename_domain(name: StreamPath, number: DomainPath, asked: Rename, request: Request) -> dict[str, Any]:
        """Call a domain something that people understand; its name stays."""
        who = callers.who(request, asked.reason)
        return await served.command(name, lambda c: c.domains.rename(name, number, asked.title, who))

    @routes.delete("/{number}", **silent(400, 404))
    async def delete_domain(name: StreamPath, number: DomainPath, request: Request) -> None:
        """Erase everything of a domain; the next image that looks like its images opens a new one."""
        who = callers.who(request)
        files = await served.command(name, lambda c: c.delete(c.domains.named(name, number), who))
        await erased(files, "it is gone", "its files")

    @routes.post("/{number}/offer", **returns(DomainsOpened, 400, 404, 409, status=201))
    async def offer_domain(name: StreamPath, number: DomainPath, asked: Offer, request: Request) -> dict[str, Any]:
        """Give other streams a copy of a domain to start from, each judged by its own guard; all of them or none."""
        key_of(request).expect_streams(*asked.to)
        who, to = callers.who(request, asked.reason), list(dict.fromkeys(asked.to))
        for other in to if served.tenure else ():  # this server must have them, too
            await served.command(other, partial(Commands.read, name=other))
        return {"opened": await served.command(name, lambda c: c.domains.offer(name, number, to, who))}

    return routes
