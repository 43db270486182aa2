"""Routes that are asked by the thousand."""

from fastapi import Request
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from tta_server.api.parameters import refuse_unknown


class HotRoute(APIRoute):
    """A route whose function is called at once, with the request and what stands in its path and query.

    What FastAPI does before and after a function (dependencies, contexts, a body) takes longer than all that this
    server does with a small request, and images need none of it. In the OpenAPI document it is a route like any other.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; errors are answered as those of any route."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # says what is allowed
            return
        request = Request(scope, receive, send)
        asked = scope["path_params"]
        if scope["query_string"]:
            await refuse_unknown(request)
            values, problems = request_params_to_args(self.dependant.query_params, request.query_params)
            if problems:
                raise RequestValidationError(problems)
            asked = asked | values
        response = await self.endpoint(request, **asked)
        await response(scope, receive, send)
