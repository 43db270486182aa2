"""The requests that come by the thousand: images to be classified."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from tta_server.api.front.parameters import refuse_unknown
from tta_server.api.front.path import path_of
from tta_server.api.front.responses import response_to

_MOST_QUERIES, _SHORT_BYTES = 64, 64


class _Head(Headers):
    """A request's headers in a dictionary: Starlette goes through all of them for each that is asked for."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope=scope)
        self._first = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        return self._first.get(key.lower(), default)


class _Asked(Request):
    """A request whose headers are looked up quickly."""

    @cached_property
    def headers(self) -> Headers:
        return _Head(self.scope)


class Hot:
    """Call the functions of some routes at once, with the request and what stands in its path and query.

    What FastAPI does before and after a function (routing, dependencies, contexts, a body) takes longer than all that
    this server does with a small request, and images need none of it. The routes are FastAPI's all the same: it lists
    them in the OpenAPI document, and answers other methods.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        """Wrap `app`, whose routes with these functions take POST."""
        self._app = app
        self._routes = [route for route in routes if isinstance(route, APIRoute)]
        self._queries: dict[tuple[str, bytes], Mapping[str, object]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = path_of(scope)
            for route in self._routes:
                if found := route.path_regex.match(path):
                    scope["route"] = route  # as FastAPI says it to who counts and traces
                    response = await self._answer(route, found.groupdict(), _Asked(scope, receive))
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    async def _answer(self, route: APIRoute, named: dict[str, str], request: Request) -> Response:
        try:
            response: Response = await route.endpoint(request, **named, **await self._query(route, request))
        except Exception as error:
            expected = response_to(error)
            if expected is None:
                raise
            return expected
        return response

    async def _query(self, route: APIRoute, request: Request) -> Mapping[str, object]:
        """Return what `_parsed` does, of which the first few answers are kept: clients ask in the same words."""
        asked: bytes = request.scope["query_string"]
        if not asked:
            return {}
        kept = self._queries.get((route.path, asked))
        if kept is None:
            kept = await _parsed(route, request)
            if len(self._queries) < _MOST_QUERIES and len(asked) <= _SHORT_BYTES:
                self._queries[route.path, asked] = kept
        return kept


async def _parsed(route: APIRoute, request: Request) -> Mapping[str, object]:
    """Return the parameters behind the question mark that the caller gave.

    Raises:
        BadRequest: If the route does not know one.
        RequestValidationError: If one is no good.
    """
    await refuse_unknown(request)
    values, problems = request_params_to_args(route.dependant.query_params, request.query_params)
    if problems:
        raise RequestValidationError(problems)
    return values
