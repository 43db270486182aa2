"""The part of the configuration that is about what the server says of itself, and to whom."""

from typing import Literal

from pydantic import Field

from tta_server.settings_door import Section


class LoggingSettings(Section):
    """What the server's log says, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages that are written."
    )
    format: Literal["human", "json"] = Field(
        "human", description="Lines for people, or one JSON object a line, for what collects logs."
    )
    access: bool = Field(False, description="Write a line for each request: who, what, its name, status and duration.")
