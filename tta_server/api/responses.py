"""Every error leaves as `{"error": "..."}` with the right status, never as a traceback."""

import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tta_server.errors import Overloaded, TTAError

log = logging.getLogger(__name__)


def error_response(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON error."""
    body = orjson.dumps({"error": message, "code": code})
    return Response(body, status_code=status, media_type="application/json", headers=headers)


def install(app: FastAPI) -> None:
    """Make `app` answer every error in this form."""

    @app.exception_handler(TTAError)
    async def own(_request: Request, error: TTAError) -> Response:
        headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, Overloaded) else None
        return error_response(error.status, str(error), error.code, headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        what = {404: f"no such path '{request.url.path}'", 405: f"{request.method} is not allowed here"}
        message = f"{what[error.status_code]}; see /docs" if error.status_code in what else str(error.detail)
        return error_response(error.status_code, message, "http", dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def validation(_request: Request, error: RequestValidationError) -> Response:
        return error_response(400, "; ".join(map(_explain, error.errors())), "bad_request")

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: ClientDisconnect) -> Response:
        return error_response(400, "the connection was closed before the body was complete", "bad_request")

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(500, "the server failed to answer; its log says why", "internal")


def _explain(problem: dict[str, Any]) -> str:
    return f"{problem['loc'][-1]}: {problem['msg']}, got {problem.get('input')!r}"
