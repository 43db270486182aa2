"""Every error leaves as `{"error": "..."}` with the right status, never as a traceback."""

import re
from collections.abc import Collection, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

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
_SCHEMAS = "#/components/schemas/"
MOST_SHOWN = 80
"""Characters of what a caller sent that an error repeats."""


class Told(BaseModel):
    """A JSON object with these keys and no others; nothing is converted: answers leave as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # nobody asks but for the document


class Problem(Told):
    """What every error says."""

    model_config = ConfigDict(extra="ignore")  # it may say more one day

    error: str
    code: str


def described(model: type[Told], said: str, every: bool = False) -> dict[str, Any]:
    """Return what the OpenAPI document says of an answer.

    FastAPI would prepare to convert each answer of each route, which takes a tenth of a start.

    Args:
        model: The answer, or each entry of it.
        said: What it is, in words.
        every: Whether it is a list.
    """
    schema: dict[str, Any] = {"$ref": f"{_SCHEMAS}{model.__name__}"}
    if every:
        schema = {"type": "array", "items": schema}
    return {"description": said, "content": {"application/json": {"schema": schema}}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of errors with these statuses."""
    return {status: described(Problem, HTTPStatus(status).phrase) for status in statuses}


def silent(*refused: int) -> dict[str, Any]:
    """Return how a route is declared that answers with 204: no body, and no type of one.

    Args:
        refused: Statuses of errors.
    """
    return {"status_code": 204, "response_class": Response, "responses": refusals(*refused)}


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

    _document(app, open_paths)


_CODES = {404: "not_found", 405: "method_not_allowed"}


def operation_id(route: APIRoute) -> str:
    """Return what a generated client calls a route: its function, and whether the path names a version."""
    return f"{route.name}_of_version" if "/versions/" in route.path else route.name


_PROBLEMS = {str(status): said for status, said in refusals(400, 401, 403).items()}
_KEYED = ("401", "403")


def _document(app: FastAPI, open_paths: Collection[str] | None) -> None:
    made = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        known = made()
        _describe(known)
        for unused in ("HTTPValidationError", "ValidationError"):
            known["components"]["schemas"].pop(unused, None)
        if open_paths is not None:
            known["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in known["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)  # FastAPI's own; here such a request gets 400
                operation["responses"].setdefault("400", _PROBLEMS["400"])  # as one with an unknown parameter does
                if open_paths is not None and path not in open_paths:
                    operation["security"] = [{"key": []}]
                    operation["responses"] |= {status: _PROBLEMS[status] for status in _KEYED}
        return known

    app.openapi = document  # type: ignore[method-assign]


def _describe(document: dict[str, Any]) -> None:
    """Add what is told in answers: of all that derives from `Told`, what the document names."""
    named = set(re.findall(f'"{_SCHEMAS}([^"]+)"', orjson.dumps(document).decode()))
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "serialization") for model in _derived(Told) if model.__name__ in named
    ]
    _, made = models_json_schema(models, ref_template=_SCHEMAS + "{model}")
    document["components"]["schemas"] |= made["$defs"]


def _derived(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in model.__subclasses__():
        yield each
        yield from _derived(each)


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
