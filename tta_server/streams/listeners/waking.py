"""What happens to streams that somebody should know of without looking: drift, freezes and restores."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from tta_server.streams.event import StreamEvent

Alarm = Literal["drift", "freeze", "restore"]


class Waking:
    """Post a message of each such event."""

    def __init__(self, model: str, post: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Take the name of the model, and what takes a kind and a message and returns at once."""
        self._model = model
        self._post = post

    def hear(self, event: StreamEvent) -> None:
        """Post a message if the event is one that somebody should know of."""
        if kind := alarm(event):
            said = f": {event.reason}" if event.reason else ""
            data = {
                **event.extra,
                "model": self._model,
                "stream": event.stream,
                "event": event.kind,
                "version_before": event.before.version,
                "version_after": event.after.version,
                "cause": event.cause,
                "reason": event.reason,
                "who": event.who,
                "request_id": event.request_id,
            }
            text = f"{self._model}, stream '{event.stream}', {event.kind}{said}"
            self._post(kind, {"type": kind, "timestamp": event.time, "text": text, "data": data})


def alarm(event: StreamEvent) -> Alarm | None:
    """Return what an event is to somebody on duty; a mere warning, and what was planned, is nothing."""
    if event.kind == "freeze":
        return "freeze"
    if event.kind == "drift":
        return "drift" if "drift" in (event.extra.get("state"), event.extra.get("before")) else None
    return "restore" if event.words.restored and event.cause != "periodic" else None
