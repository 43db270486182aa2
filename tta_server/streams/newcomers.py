"""Streams that have not learnt yet: whoever asks may open one, so they give way when there is no place left.

Nobody is refused while there is a place. Then the one that is idle longest goes, if it rests; else the newest of a
client that has more than half of all places. So names without end keep nobody out, and a camera that sees nothing new,
and so never learns, stays as long as it is asked and its client has at most half.
"""

import time
from collections import Counter, OrderedDict
from typing import Final, NamedTuple

from tta_server.names import is_domain, stream_of_domain
from tta_server.settings import StreamsSettings
from tta_server.streams.event import EventKind, News, StreamEvent
from tta_server.streams.registry import Registry
from tta_server.streams.stream import Standing

_RESTING_S = 60.0  # only who was not asked for so long gives way to others

# Whatever makes a stream more than a name: a step, or an operator who did something with it.
_LASTING: Final[frozenset[EventKind]] = frozenset(
    ("commit", "snapshot", "restore", "import", "mode", "freeze", "settings", "rename", "offer", "rollback", "reset")
)
_GONE: Final[frozenset[EventKind]] = frozenset(("delete", "aside"))  # what is set aside is for an operator to look at


class Newcomer(NamedTuple):
    """A stream that has not learnt yet.

    Attributes:
        client: Who opened it; empty if that is not known.
        opened_s: When it was, on the monotonic clock.
        touched_s: When it was asked last, on the same.
    """

    client: str
    opened_s: float
    touched_s: float


class Newcomers:
    """Know the streams that a request has opened and that have not learnt yet; the device thread alone may call it."""

    def __init__(self, registry: Registry, settings: StreamsSettings, news: News) -> None:
        """Start with none; of what comes from disk, those that never learnt and are as configured are newcomers."""
        self._registry = registry
        self._most = settings.max_streams
        self._expire_s = settings.expire_s
        self._news = news
        self._newcomers: OrderedDict[str, Newcomer] = OrderedDict()  # the one that is idle longest first
        self._clients: Counter[str] = Counter()
        news.listen(self.hear)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._newcomers)

    def visit(self, name: str, client: str, now_s: float) -> None:
        """Say that a client asks for a stream, before it is opened."""
        known = self._newcomers.get(name)
        if name not in self._registry:
            self.make_room(client, now_s)
            if len(self._registry) < self._most:  # else it is refused
                self._know(name, Newcomer(client, now_s, now_s))
        elif known:
            self._know(name, Newcomer(known.client or client, known.opened_s, now_s))

    def make_room(self, client: str, now_s: float) -> None:
        """If there are as many streams as there may be, have a newcomer give way to one more, if any does.

        Args:
            client: Whose that will be; empty if it is an operator's.
            now_s: The time, on the monotonic clock.
        """
        while len(self._registry) >= self._most and (name := self._idle(now_s, _RESTING_S) or self._surplus(client)):
            self._erase(name, "another needed its place")

    def expire(self, now_s: float) -> None:
        """Erase those that were not asked for `streams.expire_s`."""
        while self._expire_s and (name := self._idle(now_s, self._expire_s)):
            self._erase(name, "nobody asked for it in streams.expire_s")

    def hear(self, event: StreamEvent) -> None:
        """A stream that has learnt, was set aside, or that an operator has changed, is a newcomer no more."""
        gone = event.kind in _GONE and not is_domain(event.stream)
        if gone or event.kind in _LASTING:
            self.forget(stream_of_domain(event.stream))
        elif event.kind == "load":
            self._meet(stream_of_domain(event.stream))

    def _meet(self, name: str) -> None:
        """See whether a stream that came from disk is one."""
        if name not in self._registry:
            return
        summary = self._registry.summary(name)
        steps = [self._registry.summary(domain).steps for domain in (name, *self._registry.domain_names(name))]
        as_usual = summary.mode == self._registry.modes.usual(name) and not summary.frozen
        if any(steps) or not as_usual or summary.trouble:
            self.forget(name)
        elif name not in self._newcomers:
            now_s = time.monotonic()
            self._know(name, Newcomer("", now_s, now_s))

    def _idle(self, now_s: float, longer_than_s: float) -> str | None:
        """Return the one that is idle longest, if it is so for longer than that; none that is just learning."""
        learning = self._learning()
        name, first = next(((name, each) for name, each in self._newcomers.items() if name not in learning), ("", None))
        return name if first and now_s - first.touched_s > longer_than_s else None

    def _surplus(self, asking: str) -> str | None:
        """Return the newest of the client that has more than half of all places, if another asks."""
        most = next((client for client, count in self._clients.items() if client and 2 * count > self._most), asking)
        if most == asking:
            return None
        learning = self._learning()
        theirs = [
            (each.opened_s, name)
            for name, each in self._newcomers.items()
            if each.client == most and name not in learning
        ]
        return max(theirs)[1] if theirs else None

    def _learning(self) -> set[str]:
        return {stream_of_domain(name) for name in self._registry.learning}

    def _erase(self, name: str, why: str) -> None:
        self.forget(name)
        if name not in self._registry:
            return
        try:
            standing = Standing(self._registry.summary(name).state_version)
            self._registry.delete(name)
        except Exception as error:
            self._registry.set_aside(name, error)
            return
        self._news.tell(StreamEvent(name, "delete", standing, standing, reason=f"it learnt nothing, {why}"))

    def _know(self, name: str, newcomer: Newcomer) -> None:
        before = self._newcomers.get(name)
        if before is None or before.client != newcomer.client:
            self.forget(name)
            self._clients[newcomer.client] += 1
        self._newcomers[name] = newcomer
        self._newcomers.move_to_end(name)

    def forget(self, name: str) -> None:
        """Know a stream no more as one that its client has opened, if it is."""
        if gone := self._newcomers.pop(name, None):
            self._clients[gone.client] -= 1
            if not self._clients[gone.client]:
                del self._clients[gone.client]
