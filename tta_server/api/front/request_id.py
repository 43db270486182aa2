"""What a request is called: in its answer, and by labels that come later."""

import re
import secrets
from typing import Any, Final

from fastapi import Request
from starlette.types import Scope

from tta_server.errors import BadRequest

HEADER = "x-request-id"
REQUEST_HEADER: Final[dict[str, Any]] = {
    "name": HEADER.title(),
    "in": "header",
    "description": "What labels that come later call the request; the server makes a name up if it is not sent.",
    "schema": {"type": "string", "pattern": "^[!-~]{0,128}$"},
}
"""What the OpenAPI document says of it."""
_PATTERN = re.compile(r"[!-~]{1,128}")
_DRAWN = 256
_spare: list[str] = []
_RULE = "must be 1 to 128 printable ASCII characters without spaces"


def name_request(scope: Scope) -> None:
    """Call a request as its header says, or make up a name; what its body says may come later.

    Of two, the client's counts: a balancer that names requests adds its own behind that.
    """
    given = dict(reversed(scope["headers"])).get(HEADER.encode(), b"").decode("latin-1")
    scope.setdefault("state", {})["request_id"] = given if _PATTERN.fullmatch(given) else _made_up()


def request_id_of(request: Request, given: str | None = None) -> str:
    """Return what a request is called: the header wins over what its body gives, both over a made-up name.

    Raises:
        BadRequest: If a given name cannot be one.
    """
    state = request.scope["state"]
    if name := request.headers.get(HEADER) or given:
        if not _PATTERN.fullmatch(name):
            source = f"header {HEADER.title()}" if request.headers.get(HEADER) else "'id'"
            raise BadRequest(f"{source} {name[:80]!r} {_RULE}")
        state["request_id"] = name
    return str(state["request_id"])


def _made_up() -> str:
    """Return a name that nobody can guess; asking the system for each gives the interpreter away to other threads."""
    if not _spare:
        drawn = secrets.token_hex(16 * _DRAWN)
        _spare.extend(drawn[start : start + 32] for start in range(0, len(drawn), 32))
    return _spare.pop()
