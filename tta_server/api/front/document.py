"""What the OpenAPI document says of answers and errors.

FastAPI would prepare at each start to convert each answer of each route. Here nothing is converted, and what answers
look like is worked out when the document is asked for.
"""

from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

_SCHEMAS = "#/components/schemas/"
_KEYED = ("401", "403")
_OF_BODIES = (408, 413, 429, 501)  # too slow, too large, no room for it now, in an encoding that is not read
_BODY_OF = ("post", "put", "patch")


class Told(BaseModel):
    """A JSON object with these keys and, unless it says so, no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


_described: dict[str, type[Told]] = {}  # what routes answer, by its name in the document


class Problem(Told):
    """What every error says."""

    model_config = ConfigDict(extra="ignore")  # it may say more one day

    error: str
    code: str


def described(model: type[Told], said: str, every: bool = False) -> dict[str, Any]:
    """Return what the document says of an answer.

    Args:
        model: The answer, or each entry of it.
        said: What it is, in words.
        every: Whether it is a list.

    Raises:
        ValueError: If another answer has the name.
    """
    if _described.setdefault(model.__name__, model) is not model:
        raise ValueError(f"there are two answers called '{model.__name__}'; give one another name")
    schema: dict[str, Any] = {"$ref": f"{_SCHEMAS}{model.__name__}"}
    if every:
        schema = {"type": "array", "items": schema}
    return {"description": said, "content": {"application/json": {"schema": schema}}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the document says of errors with these statuses."""
    return {status: described(Problem, HTTPStatus(status).phrase) for status in statuses}


def silent(*refused: int) -> dict[str, Any]:
    """Return how a route is declared that answers with 204: no body, and no type of one.

    Args:
        refused: Statuses of errors.
    """
    return {"status_code": 204, "response_class": Response, "responses": refusals(*refused)}


def operation_id(route: APIRoute) -> str:
    """Return what a generated client calls a route: its function, and whether the path names a version."""
    return f"{route.name}_of_version" if "/versions/" in route.path else route.name


def write_document(app: FastAPI, open_paths: Collection[str] | None) -> None:
    """Have an application's document say what this server answers.

    Args:
        app: The application.
        open_paths: Paths that need no key; None if none does.
    """
    made, finished = app.openapi, dict[str, Any]()

    def document() -> dict[str, Any]:
        if not finished:
            finished.update(_completed(made(), open_paths))
        return finished

    app.openapi = document  # type: ignore[method-assign]


def _completed(known: dict[str, Any], open_paths: Collection[str] | None) -> dict[str, Any]:
    problems = {str(status): said for status, said in refusals(400, 401, 403).items()}
    of_bodies = {str(status): said for status, said in refusals(*_OF_BODIES).items()}
    schemas = known["components"]["schemas"] | _schemas()
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    known["components"]["schemas"] = schemas
    if open_paths is not None:
        known["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in known["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)  # FastAPI's own; here such a request gets 400
            if method in _BODY_OF:
                operation["responses"] = of_bodies | operation["responses"]
            operation["responses"].setdefault("400", problems["400"])  # as one with an unknown parameter does
            if open_paths is not None and path not in open_paths:
                operation["security"] = [{"key": []}]
                operation["responses"] |= {status: problems[status] for status in _KEYED}
    return known


def _schemas() -> dict[str, Any]:
    """Return the schema of each answer, and of what is in it, by name."""
    _, made = models_json_schema(
        [(model, "serialization") for model in _described.values()], ref_template=_SCHEMAS + "{model}"
    )
    found: dict[str, Any] = made["$defs"]
    for schema in found.values():
        for about in schema.get("properties", {}).values():
            if about.get("default", ...) is None:  # the key is absent then
                del about["default"]
    return found
