"""Which stream a request belongs to."""

from typing import Any, Final

from tta_server.errors import BadRequest
from tta_server.names import STREAM_NAME, STREAM_OR_DOMAIN_NAME

DEFAULT = "default"
STREAM_HEADER: Final[dict[str, Any]] = {
    "name": "X-Stream-Id",
    "in": "header",
    "description": f"The stream that answers and learns; '{DEFAULT}' if it is not sent.",
    "schema": {"type": "string", "pattern": f"^({STREAM_NAME.pattern})?$"},
}
"""What the OpenAPI document says of the header that names a stream."""


def stream_of(*candidates: object) -> str:
    """Return the first name that is given, or "default".

    Args:
        candidates: Header and parameters in falling precedence; None, "" and 0 (the protocol's "no sequence") are not
            given.

    Raises:
        BadRequest: If the name cannot be one.
    """
    for name in candidates:
        if isinstance(name, bool) or name not in (None, "", 0):
            break
    else:
        return DEFAULT
    if isinstance(name, bool) or not isinstance(name, str | int) or not STREAM_NAME.fullmatch(str(name)):
        raise BadRequest(f"stream name {str(name)[:80]!r} must be 1 to 64 letters, digits, '.', '_' or '-'")
    return str(name)


def expect_header(header: str | None, stream: str) -> None:
    """Do nothing if a request names its stream where a balancer in front of several servers sees it.

    Raises:
        BadRequest: If only its body does: it would go to any server, and take the stream from the one that has it.
    """
    if not header and stream != DEFAULT:
        raise BadRequest(
            f"the stream is named in the body alone, and several servers share the streams; send the header "
            f"X-Stream-Id: {stream}"
        )


def stream_or_domain(name: str) -> str:
    """Return a name in the path of an operator's request, if it can be that of a stream or of a domain of one.

    Raises:
        BadRequest: If it cannot.
    """
    return name if STREAM_OR_DOMAIN_NAME.fullmatch(name) else stream_of(name)
