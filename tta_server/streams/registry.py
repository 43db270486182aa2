"""All streams, in memory or on disk, within the limits on their number and memory."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from tta_server.errors import Conflict, NotFound, Overloaded
from tta_server.settings import Mode, StreamsSettings
from tta_server.streams.history import History
from tta_server.streams.methods import Methods
from tta_server.streams.shelf import Parked, Shelf
from tta_server.streams.stream import Method, Stream, source_answers
from tta_server.streams.window import Window
from tta_server.telemetry.closed_sets import StateKind
from tta_server.telemetry.metrics import Metrics

_MOST_LEAVING_BYTES = 16 * 2**20  # a fraction of a second to write: so long may a request wait for the disk


class Registry:
    """Find streams, open new ones, and move those that are idle to disk; the device thread alone may call it."""

    def __init__(
        self, methods: Methods, settings: StreamsSettings, window_rows: int, metrics: Metrics, shelf: Shelf
    ) -> None:
        """Know the streams that are on disk already.

        Args:
            methods: How streams learn.
            settings: The limits, and the streams that are configured.
            window_rows: Images of a full window.
            metrics: Where to report.
            shelf: Streams on disk.
        """
        self._methods = methods
        self._settings = settings
        self._window_rows = window_rows
        self._metrics = metrics
        self._shelf = shelf
        self._streams: OrderedDict[str, Stream] = OrderedDict()  # the one that is idle longest first
        self._parked: dict[str, Parked] = shelf.parked(methods.default.adapter)
        self._sizes: dict[str, dict[StateKind, int]] = {}
        self._switched: Mode | None = None
        self._held: Counter[StateKind] = Counter({"state": 0, "history": 0, "window": 0})
        self._report()

    def __len__(self) -> int:
        return len(self._streams) + len(self._parked)

    def __contains__(self, name: object) -> bool:
        return name in self._streams or name in self._parked

    def peek(self, name: str) -> tuple[Mode, bool, Method]:
        """Return mode, whether the source answers, and method of a stream that may not exist; touches nothing."""
        if name in self._streams:
            stream = self._streams[name]
            return stream.mode, stream.answers_as_source, stream.method
        if name in self._parked:
            return self._parked[name].mode, self._parked[name].answers_as_source, self._methods.default
        mode = self.usual_mode(name)
        return mode, source_answers(mode, "adapted"), self._methods.default

    def in_memory(self, name: str) -> Stream | None:
        """Return a stream if it is in memory."""
        return self._streams.get(name)

    def existing(self, name: str) -> Stream:
        """Return a stream, from disk if need be.

        Raises:
            NotFound: If there is none.
        """
        if name not in self:
            raise NotFound(f"unknown stream '{name}'; a stream exists from its first answered request")
        return self._streams.get(name) or self._revive(name)

    def open(self, name: str, now_s: float) -> Stream:
        """Return a stream that is about to answer; a new one starts from the source.

        Raises:
            Overloaded: If it is new and there is no room for it.
        """
        if name in self:
            stream = self.existing(name)
        else:
            stream = self.create(name, self.usual_mode(name), self._methods.default)
        stream.touched_s = now_s
        self._streams.move_to_end(name)
        return stream

    def create(self, name: str, mode: Mode, method: Method) -> Stream:
        """Open a new stream.

        Raises:
            Conflict: If it exists.
            Overloaded: If there is no room for it.
        """
        if name in self:
            raise Conflict(f"stream '{name}' exists already; PATCH changes it")
        if len(self) >= self._settings.max_streams:
            raise Overloaded(f"stream '{name}' is new and this server holds its {len(self)} streams already")
        stream = self._fresh(name, mode, method)
        self._add(stream)
        return stream

    def resized(self, stream: Stream) -> None:
        """Count a stream's memory anew."""
        if stream.name in self._streams:
            self._measure(stream)

    def make_room(self) -> list[str]:
        """Move the streams that are idle longest to disk until the rest keeps to the limit; the last one stays.

        Returns:
            Names of those that went.
        """
        evicted = []
        while self._over_budget() and len(self._streams) > 1:
            name = next(iter(self._streams))
            self.evict(name)
            evicted.append(name)
            self._shelf.drain(min(_MOST_LEAVING_BYTES, self._settings.max_bytes // 8))
        for stream in self._streams.values() if self._over_budget() else ():
            stream.history.clear()
            self._measure(stream)
        self._report()
        return evicted

    def evict(self, name: str) -> None:
        """Move a stream to disk; nothing of it is lost.

        Raises:
            NotFound: If it is not in memory.
        """
        stream = self._streams.get(name)
        if stream is None:
            raise NotFound(f"stream '{name}' is not in memory")
        self._parked[name] = self._shelf.park(stream)
        self._remove(name)
        self._metrics.moved("evicted")

    def save(self) -> None:
        """Have every stream in memory written whole, as before the process ends."""
        for stream in self._streams.values():
            self._shelf.park(stream)

    def delete(self, name: str) -> "Future[None]":
        """Erase a stream: memory and metric series now, files soon.

        Returns:
            When the files are gone, or the OSError.

        Raises:
            NotFound: If there is none.
        """
        if name not in self:
            raise NotFound(f"unknown stream '{name}'")
        if name in self._streams:
            self._remove(name)
        self._parked.pop(name, None)
        erased = self._shelf.erase(name)
        self._metrics.moved("deleted")
        self._report()
        return erased

    def summaries(self, after: str = "") -> Iterator[dict[str, Any]]:
        """Yield the summaries of all streams whose names come after `after`, by name."""
        for name in sorted(name for names in (self._streams, self._parked) for name in names if name > after):
            if name in self._streams:
                yield self._streams[name].summary() | {"in_memory": True}
            else:
                yield self._parked[name].summary | {"in_memory": False}

    def every_stream_in_memory(self) -> list[Stream]:
        """Return the streams that are in memory, the one that is idle longest first."""
        return list(self._streams.values())

    def usual_mode(self, name: str) -> Mode:
        """Return the mode of a stream without one of its own: the configuration's, unless all were switched."""
        if self._switched:
            return self._switched
        named = self._settings.named.get(name)
        return named.mode if named else self._settings.mode

    def switch(self, mode: Mode | None) -> None:
        """Give future streams, and those on disk that the guard did not freeze, this mode until the process ends.

        Args:
            mode: The mode; None goes back to what the configuration says of each.
        """
        self._switched = mode
        for name, parked in self._parked.items():
            if not parked.summary["frozen"]:
                self._parked[name] = parked.in_mode(self.usual_mode(name))

    def _fresh(self, name: str, mode: Mode, method: Method) -> Stream:
        window = Window(self._window_rows, self._settings.max_client_share, self._settings.duplicate_memory)
        history = History(self._settings.history_bytes)
        return Stream(name, mode, method, method.initial, method.guard.start(), window, history)

    def _revive(self, name: str) -> Stream:
        parked = self._parked[name]
        method = self._methods.of(parked.adapter) if parked.adapter else self._methods.default
        stream = self._fresh(name, parked.mode, method)
        self._shelf.fill(stream)
        del self._parked[name]
        self._add(stream)
        self._metrics.moved("revived")
        return stream

    def _add(self, stream: Stream) -> None:
        self._streams[stream.name] = stream
        self._metrics.stream.open(stream.name, stream.method.adapter.name)
        self._metrics.stream.state(stream.name, stream.version, stream.answers_as_source, bool(stream.frozen))
        self._measure(stream)
        self._report()

    def _remove(self, name: str) -> None:
        del self._streams[name]
        self._held.subtract(self._sizes.pop(name, {}))
        self._metrics.stream.close(name)

    def _measure(self, stream: Stream) -> None:
        self._held.subtract(self._sizes.get(stream.name, {}))
        self._sizes[stream.name] = stream.bytes
        self._held.update(self._sizes[stream.name])

    def _over_budget(self) -> bool:
        return sum(self._held.values()) > self._settings.max_bytes

    def _report(self) -> None:
        self._metrics.streams(len(self), len(self._parked), self._held)
