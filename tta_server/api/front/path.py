"""The path of a request as routes know it."""

from starlette.types import Scope


def path_of(scope: Scope) -> str:
    """Return a request's path without the one under which a proxy serves this server."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
