"""Streams that have not learnt yet: whoever asks may open one, so no client may have many, and the idle ones go."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from tta_server.errors import Overloaded
from tta_server.settings import StreamsSettings
from tta_server.streams.event import EventKind, News, StreamEvent
from tta_server.streams.names import is_domain, stream_of_domain
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
        touched_s: When it was asked last, on the monotonic clock.
    """

    client: str
    touched_s: float


class Newcomers:
    """Know the streams that a request has opened and that have not learnt yet; the device thread alone may call it."""

    def __init__(self, registry: Registry, settings: StreamsSettings, news: News) -> None:
        """Start with none; of what comes from disk, those that never learnt and are as configured are newcomers."""
        self._registry = registry
        self._most = settings.max_streams
        self._most_of_a_client = settings.max_new_per_client or max(1, settings.max_streams // 2)
        self._expire_s = settings.expire_s
        self._news = news
        self._newcomers: OrderedDict[str, Newcomer] = OrderedDict()  # the one that is idle longest first
        self._clients: Counter[str] = Counter()
        news.listen(self.hear)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._newcomers)

    def visit(self, name: str, client: str, now_s: float) -> None:
        """Say that a client asks for a stream, before it is opened.

        Raises:
            Overloaded: If it is new, and the client or the server has too many already.
        """
        if name in self._registry:
            if known := self._newcomers.get(name):
                self._newcomers[name] = known._replace(touched_s=now_s)
                self._newcomers.move_to_end(name)
        else:
            self.forget(name)  # it was to be opened before, and could not be
            if client and self._clients[client] >= self._most_of_a_client:
                raise Overloaded(
                    f"stream '{name}' is new, and client '{client}' has opened {self._clients[client]} streams that "
                    "have learnt nothing yet (streams.max_new_per_client); use those, or delete some"
                )
            self.make_room(now_s)
            self._newcomers[name] = Newcomer(client, now_s)
            self._clients[client] += 1

    def make_room(self, now_s: float) -> None:
        """If there are as many streams as there may be, erase the newcomer that is idle longest, if it rests."""
        if len(self._registry) >= self._most:
            self._erase_first(lambda idle: now_s - idle.touched_s > _RESTING_S, "and another needed its place")

    def expire(self, now_s: float) -> None:
        """Erase those that were not asked for `streams.expire_s`."""
        while self._expire_s and self._erase_first(
            lambda idle: now_s - idle.touched_s > self._expire_s, "in streams.expire_s"
        ):
            pass

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
            self._newcomers[name] = Newcomer("", time.monotonic())

    def _erase_first(self, may_go: Callable[[Newcomer], bool], why: str) -> bool:
        """Erase the newcomer that is idle longest, if it may go; return whether it did."""
        name, first = next(iter(self._newcomers.items()), ("", None))
        if first is None or not may_go(first):
            return False
        self.forget(name)
        if name not in self._registry:
            return True
        try:
            standing = Standing(self._registry.summary(name).state_version)
            self._registry.delete(name)
        except Exception as error:
            self._registry.set_aside(name, error)
            return True
        reason = f"it learnt nothing, nobody asked for it {why}"
        self._news.tell(StreamEvent(name, "delete", standing, standing, reason=reason))
        return True

    def forget(self, name: str) -> None:
        """Know a stream no more as one that its client has opened, if it is."""
        if gone := self._newcomers.pop(name, None):
            self._clients[gone.client] -= 1
            if not self._clients[gone.client]:
                del self._clients[gone.client]
