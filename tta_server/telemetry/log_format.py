"""The form of the server's log: lines for people, or one JSON object a line.

The standard library's logging is enough: a line is a sentence and a mapping of fields, which both forms write.
"""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

from tta_server.plain import plain

_FIELDS: Final = "fields"


def fields(**values: object) -> dict[str, dict[str, Any]]:
    """Return what a log call takes as `extra` so that a line has these fields; what is empty or None is left out."""
    return {_FIELDS: {name: value for name, value in values.items() if value not in (None, "")}}


class HumanFormat(logging.Formatter):
    """Time, level, who speaks, the sentence, and fields as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line; below it, indented, how an error came about."""
        said = f"{_time(record)} {record.levelname:<7} {record.name}: {plain(record.getMessage())}"
        line = " ".join([said, *(f"{name}={plain(str(value))}" for name, value in _fields(record).items())])
        if not record.exc_info:
            return line
        # What was wrong may be told in somebody's own words: none of them begins a line.
        below = self.formatException(record.exc_info).splitlines()
        return "\n".join([line, *(f"  {plain(each)}" for each in below)])


class JsonFormat(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, the fields, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        content = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(dict(_fields(record)) | content, default=str)


def write_log(level: str, form: Literal["human", "json"]) -> None:
    """Have the process write its log to standard error, unless somebody has said already where it goes."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormat() if form == "json" else HumanFormat())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(record, _FIELDS, {})
    return found


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
