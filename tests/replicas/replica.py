"""One replica, forked from a process that has imported everything."""

import os
from typing import Any

import tta_server.models.glyphs
from tta_server.serve import serve
from tta_server.settings_file import load_settings

__all__ = ["run", "tta_server"]


def run(settings: dict[str, Any], log: str) -> None:
    """Serve until a signal comes; what it says goes to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    serve(load_settings(None, settings))
