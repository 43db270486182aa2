"""Every error leaves as `{"error": "..."}` with the right status, never as a traceback."""

from collections.abc import Collection, Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tta_server.api.front.document import write_document
from tta_server.api.front.manners import allowed
from tta_server.api.front.path import path_of
from tta_server.errors import ClientGone, Overloaded, TTAError, Unauthorized

NO_OBJECT = "no_object"
"""Type of the error for what should be a JSON object and is none; its context holds an example."""
SECURITY_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
]
"""What every answer tells a browser: take it for what it says it is, show it in no frame, keep it nowhere."""
MOST_SHOWN = 80
"""Characters of what a caller sent that an error repeats."""


def error_response(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON error."""
    said = message.encode("utf-8", "replace").decode()  # what is repeated may be half a character
    body = orjson.dumps({"error": said, "code": code})
    return Response(body, status_code=status, media_type="application/json", headers=headers)


def error_response_of(error: TTAError, headers: Mapping[str, str] | None = None) -> Response:
    """Return what a caller hears of an error, with headers beside those that the error needs."""
    more = dict(headers or {})
    if isinstance(error, Overloaded):
        more["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        more["WWW-Authenticate"] = "Bearer"
    return error_response(error.status, str(error), error.code, more)


def response_to(error: Exception) -> Response | None:
    """Return what a caller hears of an error; None if nobody expected it."""
    if isinstance(error, TTAError):
        return error_response_of(error)
    if isinstance(error, RequestValidationError):
        return error_response(400, "; ".join(map(explain, error.errors())), "bad_request")
    if isinstance(error, ClientDisconnect):
        message = "the connection was closed before the body was complete"
        return error_response(ClientGone.status, message, ClientGone.code)
    return None


def install(app: FastAPI, open_paths: Collection[str] | None = None) -> None:
    """Make `app` answer every error in this form, and its OpenAPI document say so.

    Args:
        app: The application.
        open_paths: Paths that need no key; None if none does.
    """

    @app.exception_handler(TTAError)
    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ClientDisconnect)
    async def expected(_request: Request, error: Exception) -> Response | None:
        return response_to(error)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        what = {404: f"no such path '{path_of(request.scope)}'", 405: f"{request.method} is not allowed here"}
        message = f"{what[error.status_code]}; see /docs" if error.status_code in what else str(error.detail)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = allowed(app.routes, request.scope)
        return error_response(error.status_code, message, _CODES.get(error.status_code, "bad_request"), headers)

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> Response:
        return error_response(500, "the server failed to answer; its log says why", "internal")

    write_document(app, open_paths)


_CODES = {404: "not_found", 405: "method_not_allowed"}


def explain(problem: Mapping[str, Any]) -> str:
    """Return what was wrong with a request, from pydantic's description of the error."""
    where = ".".join(str(part) for part in problem["loc"][1:])
    got = _short(problem.get("input"))
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{where}'"
    if problem["type"] == "missing":
        return f"'{where}' is missing" if where else "the body is missing; send a JSON object"
    if problem["type"] == "json_invalid":
        return f"the body must be a JSON object, and is no JSON: {problem['ctx']['error']}"
    if problem["type"] == "model_attributes_type" and len(problem["loc"]) <= 2:
        return f"the body must be a JSON object, sent with Content-Type: application/json, got {got}"
    if problem["type"] == NO_OBJECT and not where:
        example = problem["ctx"]["example"]
        return f"the body must be a JSON object such as {example}, sent with Content-Type: application/json, got {got}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}, got {got}" if where else message


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
