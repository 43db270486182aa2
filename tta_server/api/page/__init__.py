"""The pages for people: `/`, which shows streams live, and `/docs`; both are files beside this one.

They load nothing from elsewhere and run no script but their own, and the browser is told to hold them to it. They ask
the API every few seconds and keep no connection waiting: an open page never holds up a stop, and needs no thread.
"""

from collections.abc import Callable, Coroutine
from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import Scope

from tta_server.api.front.path import path_of

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_KINDS: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_FILES: Final = ("page.css", "page.js", "chart.js", "words.js", "actions.js", "strange.js", "api.js", "docs.js")
OPEN: Final = frozenset(("/docs", *(f"/page/{name}" for name in _FILES)))
"""Paths that need no key: they are the same on every server; what they show is asked for with the key of the reader."""


def is_open(scope: Scope) -> bool:
    """Say whether a request is for a page or a part of one, which need no key."""
    path = path_of(scope)
    return path in OPEN or (path == "/" and _wants_page(scope))


def router(version: str) -> APIRouter:
    """Return the routes.

    Args:
        version: Of this server.
    """
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def root(request: Request) -> Response:
        """Show a browser the live page, and tell everybody else what this is, and where to read on."""
        if _wants_page(request.scope):
            return _file("page.html")
        links = {"docs": "/docs", "openapi": "/openapi.json", "ready": "/v2/health/ready", "metrics": "/metrics"}
        return JSONResponse({"name": "tta-server", "version": version, **links})

    @routes.get("/docs")
    async def docs() -> Response:
        """Show the API to read."""
        return _file("docs.html")

    for name in _FILES:
        routes.add_api_route(f"/page/{name}", _sender(name), methods=["GET"])
    return routes


def _wants_page(scope: Scope) -> bool:
    """Say whether a client takes HTML by name: browsers do, programs take anything."""
    return "text/html" in Headers(scope=scope).get("accept", "").lower()


def _sender(name: str) -> Callable[[], Coroutine[None, None, Response]]:
    async def send() -> Response:
        return _file(name)

    return send


@cache
def _content(name: str) -> bytes:
    return files(__name__).joinpath(name).read_bytes()


def _file(name: str) -> Response:
    kind = _KINDS[name.rpartition(".")[2]]
    headers = {"Content-Security-Policy": _POLICY, "Vary": "Accept"}
    return Response(_content(name), media_type=kind, headers=headers)
