"""One replica, forked from a process that has imported everything."""

from typing import Any

from tests.processes import say_into
from tta_server.serve import serve
from tta_server.settings_file import load_settings


def run(settings: dict[str, Any], log: str) -> None:
    """Serve until a signal comes; what it says goes to a file."""
    say_into(log)
    serve(load_settings(None, settings))
