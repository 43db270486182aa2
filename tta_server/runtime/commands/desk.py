"""What operators' commands share: who asks, which streams a command is about, and how a change is told."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from tta_server.adapters import State
from tta_server.errors import Conflict, SetAside
from tta_server.runtime.work.parts import Parts
from tta_server.settings import Mode
from tta_server.storage.audit import Event
from tta_server.streams.event import StreamEvent
from tta_server.streams.stream import Method, Standing, Stream
from tta_server.telemetry.closed_sets import DropReason


class Who(NamedTuple):
    """Who asks, and why.

    Attributes:
        name: As the API knows the caller.
        reason: What the caller wrote; may be empty where none is required.
        request_id: What the request is called; empty if it has no name.
    """

    name: str
    reason: str = ""
    request_id: str = ""


class Desk:
    """Find the streams of a command, and tell what was done; the device thread alone may call it."""

    def __init__(self, parts: Parts) -> None:
        """Take the streams and who is told."""
        self.streams = parts.registry
        self.methods = parts.methods
        self._newcomers = parts.newcomers
        self._news = parts.news
        self._ledger = parts.ledger

    def open(self, name: str, mode: Mode, method: Method) -> Stream:
        """Open a stream for an operator; see `Registry.create`."""
        if name not in self.streams:
            self._newcomers.make_room("", time.monotonic())
        return self.streams.create(name, mode, method)

    def one_state(self, name: str) -> Stream:
        """Return a stream, or a domain, that has one state.

        Raises:
            NotFound: If there is none.
            Conflict: If it keeps a state for each of its domains.
        """
        stream = self.streams.existing(name)
        if stream.whereabouts is None:
            return stream
        names = ", ".join(self.streams.domain_names(name))
        have = f"name one: {names}" if names else "it has none yet"
        raise Conflict(f"stream '{name}' keeps a state for each of its domains; {have}")

    def domains_of(self, stream: Stream) -> Iterator[Stream]:
        """Yield the domains of a stream that can go on."""
        for name in self.streams.domain_names(stream.name):
            try:
                yield self.streams.existing(name)
            except SetAside:
                continue

    def go_on(self, stream: Stream, adopted: tuple[State, int], event: Event, who: Who, extra: dict[str, Any]) -> None:
        """Have a stream go on from a state that so many steps made, and tell it."""
        before = stream.standing
        stream.go_to(*adopted)
        stream.serve = "adapted"
        self.changed(stream, event, before, who, extra)

    def changed(
        self,
        stream: Stream,
        event: Event,
        before: Standing,
        who: Who,
        extra: dict[str, Any] | None = None,
        waiting: int = 0,
    ) -> None:
        """Tell that an operator changed a stream.

        Args:
            stream: As it is now.
            event: What was done.
            before: Where it stood before.
            who: Who asked.
            extra: What only this event has; for the audit log.
            waiting: Images that are not learnt from any more.
        """
        lost: dict[DropReason, int] = {"reset": waiting} if waiting else {}
        self._news.tell(
            StreamEvent(
                stream.name,
                event,
                before,
                stream.standing,
                stream,
                "operator",
                who.reason,
                who.name,
                lost=lost,
                extra=extra or {},
                request_id=who.request_id,
            )
        )

    def switched(self, event: StreamEvent, who: Who) -> None:
        """Tell what an operator did to no stream in memory."""
        by = {"cause": "operator", "reason": who.reason, "who": who.name, "request_id": who.request_id}
        self._news.tell(replace(event, **by))  # type: ignore[arg-type]

    def told(self, stream: Stream) -> dict[str, Any]:
        """Return everything about a stream."""
        more = {"domains": self.streams.domain_names(stream.name), "labelled": self._ledger.accuracy(stream.name)}
        return self.streams.summary(stream.name).told() | stream.details() | more
