"""What happens to streams, as lines of the server's log."""

import logging

from tta_server.streams.event import StreamEvent
from tta_server.telemetry.log_format import fields

log = logging.getLogger(__name__)


def speak(event: StreamEvent) -> None:
    """Say what happened to a stream in one line, as loud as it matters to who is on duty."""
    level = _level(event)
    if not (level and log.isEnabledFor(level)):
        return
    said = f": {event.reason}" if event.reason else ""
    known = {
        "stream": event.stream,
        "event": event.kind,
        "version": event.after.version,
        "version_before": event.before.version if event.before.version != event.after.version else None,
        "cause": event.cause,
        "who": event.who,
        "rows": event.rows or None,
        "request_id": event.request_id,
    }
    about = fields(**{**event.extra, **known})
    log.log(level, "stream '%s', %s%s", event.stream, event.kind, said, extra=about)


def _level(event: StreamEvent) -> int:
    """Return how loud a kind is, but for what the server itself found wrong: that is a warning at least."""
    usual = event.words.level
    restored = event.words.restored and event.who == "engine" and event.cause != "periodic"
    begins = event.kind == "drift" and event.extra.get("state") == "drift"
    return max(usual, logging.WARNING) if restored or begins else usual
