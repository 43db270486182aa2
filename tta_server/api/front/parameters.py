"""Parameters behind the question mark: one that a route does not know is refused, for it is misspelt."""

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel

from tta_server.api.front.path import path_of
from tta_server.errors import BadRequest


async def refuse_unknown(request: Request) -> None:
    """Do nothing if a request has only parameters that its route knows.

    Raises:
        BadRequest: If it has another.
    """
    if not request.scope["query_string"]:
        return
    known = _known(request.scope["route"])
    for name in request.query_params:
        if name not in known:
            have = f"it has {', '.join(known)}" if known else "it has none"
            raise BadRequest(f"unknown parameter '{name[:80]}' of {path_of(request.scope)}; {have}")


def _known(route: object) -> list[str]:
    """Return the names of a route's parameters."""
    found: list[str] = []
    for field in route.dependant.query_params if isinstance(route, APIRoute) else ():
        model = field.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            found += model.model_fields
        else:
            found.append(field.alias)
    return found
