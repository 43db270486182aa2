"""All streams, in memory, on disk or set aside, within the limits on their number and memory."""

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager

from tta_server.errors import Conflict, NotFound, NotReady, SetAside, StreamsFull, TTAError
from tta_server.names import is_domain, stream_of_domain
from tta_server.settings import Mode, StreamsSettings
from tta_server.storage.pending import together
from tta_server.streams.agenda import Agenda
from tta_server.streams.directory import Apart
from tta_server.streams.event import News, StreamEvent
from tta_server.streams.files.parked import Parked
from tta_server.streams.files.shelf import Shelf, revive
from tta_server.streams.history import History
from tta_server.streams.lesson import BesideSteps
from tta_server.streams.methods import Methods
from tta_server.streams.modes import Modes
from tta_server.streams.schedule import Pace
from tta_server.streams.sizes import Footprints
from tta_server.streams.stock import Stock
from tta_server.streams.stream import Method, Standing, Stream
from tta_server.streams.summary import Summary, tellable
from tta_server.streams.whereabouts import Whereabouts
from tta_server.streams.window import Sample, Window
from tta_server.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_APART_NOW = "inputs are told apart now; what it had learnt in the shadow until then is gone"
_MOST_LEAVING_BYTES = 16 * 2**20  # a fraction of a second to write: so long may a request wait for the disk


class Registry(Stock):
    """Find streams, open new ones, know what they wait for, and move those that are idle to disk.

    It hears of every event, and so knows by itself what each takes and waits for. The device thread alone may call it.
    """

    def __init__(
        self,
        methods: Methods,
        settings: StreamsSettings,
        pace: Pace,
        metrics: Metrics,
        shelf: Shelf,
        news: News,
        apart: Apart,
    ) -> None:
        """Start without a stream.

        Args:
            methods: How streams learn.
            settings: The limits, and the streams that are configured.
            pace: When windows are learnt from.
            metrics: Where to report.
            shelf: Streams on disk.
            news: What happens to streams.
            apart: Whether and how streams tell domains apart.
        """
        super().__init__(shelf, Modes(settings, apart.blind), methods, apart.dimensions)
        self.pace = pace
        self._settings = settings
        self._metrics = metrics
        self._news = news
        self._agenda = Agenda(pace)
        self._sizes = Footprints()
        self._working = 0
        news.listen(self._hear)
        news.on_failure(self.set_aside)
        metrics.on_render(self._report)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Leave every stream where it is meanwhile; after the outermost block the limit on memory is kept again."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            self._make_room()

    def existing(self, name: str) -> Stream:
        """Return a stream, from disk if need be.

        Raises:
            NotFound: If there is none.
            SetAside: If it cannot go on.
            Moved, NotReady: See `arrive`.
        """
        self.arrive(name)
        self._make_room()
        if name in self._parked:
            try:
                self._revive(name)
            except NotReady:
                raise
            except Exception as error:
                self.set_aside(name, error)
        if name in self._streams:
            return self._streams[name]
        raise SetAside(name, self.summary(name).trouble)

    def open(self, name: str, now_s: float) -> Stream:
        """Return a stream that is about to answer; a new one starts from the source.

        Raises:
            StreamsFull: If it is new and there is no room for it.
            SetAside, Moved, NotReady: See `existing`.
        """
        self.arrive(name)
        stream = self._streams.get(name)
        if stream is None:
            known = name in self
            stream = self.existing(name) if known else self.create(name, self.modes.usual(name), self._methods.default)
        stream.touched_s = now_s
        self._streams.move_to_end(name)
        return stream

    def create(self, name: str, mode: Mode, method: Method) -> Stream:
        """Open a new stream.

        Raises:
            Conflict: If it exists.
            StreamsFull: If there is no room for it.
            Moved: If another server has it.
        """
        self.arrive(name)
        if name in self:
            raise Conflict(f"stream '{name}' exists already; PATCH changes it")
        if not is_domain(name) and len(self) >= self._settings.max_streams:
            raise StreamsFull(name, len(self))
        self._make_room()
        stream = self._fresh(name, mode, method)
        self._add(stream)
        return stream

    def due_s(self) -> float | None:
        """Return when a window is due or a domain to be begun, on the monotonic clock; None if neither is."""
        return self._agenda.due_s()

    def take_due(self, now_s: float, most_rows: int | None = None) -> tuple[Stream, list[Sample]] | None:
        """Take the window that is due longest; the stream's next one is due once something was told of this one.

        Args:
            now_s: The time, on the monotonic clock.
            most_rows: Most images in it; None takes any number.

        Returns:
            The stream and its images, or None if no window is due or the one that is has more.
        """
        while name := self._agenda.window(now_s):
            stream = self._streams[name]
            try:
                if most_rows is not None and min(len(stream.window), self.pace.rows) > most_rows:
                    return None
                self._agenda.passed(name)
                window = stream.window.take(self.pace.rows)
            except Exception as error:
                self.set_aside(name, error)
                continue
            if window:
                return stream, window
        return None

    def take_beside(self) -> tuple[Stream, list[Sample], BesideSteps] | None:
        """Return who waits longest for something beside steps, with what images and for what; None if none waits."""
        while name := self._agenda.beside():
            if purpose := self._agenda.beside_steps(stream := self._streams[name]):  # it may have been done since
                return stream, self._agenda.take(stream), purpose
        return None

    def evict(self, name: str) -> None:
        """Move a stream to disk; nothing of it is lost. If that cannot be done it is set aside.

        Raises:
            NotFound: If it is not in memory.
        """
        stream = self._streams.get(name)
        if stream is None:
            raise NotFound(f"stream '{name}' is not in memory")
        for domain in [one for one in self._families.of(name) if one in self._streams]:  # they go with it
            self.evict(domain)
        try:
            self._parked[name] = self._shelf.park(stream)
        except Exception as error:
            self.set_aside(name, error)
            return
        self._remove(name)
        self._metrics.stream.rest(name)
        self._metrics.moved("evicted")

    def evict_idle(self, now_s: float, idle_s: float) -> None:
        """Move streams to disk that were not asked for `idle_s`; 0 moves none."""
        for name in [each.name for each in self._streams.values() if idle_s and now_s - each.touched_s > idle_s]:
            if name in self._streams:  # domains go with their stream
                self.evict(name)

    def set_aside(self, name: str, error: Exception) -> None:
        """Have a stream answer nobody until it is deleted or the server restarted; its file stays as it is."""
        if name in self._aside:
            return
        log.error("stream '%s' is set aside; the others go on", name, exc_info=error)
        trouble = str(error) if isinstance(error, ValueError | TTAError) else f"{type(error).__name__}: {error}"
        summary = tellable(lambda: self.summary(name), Summary(name, self.modes.usual(name)))
        self._drop(name)
        self._aside[name] = summary.aside(trouble)
        standing = Standing(summary.state_version)
        self._news.tell(StreamEvent(name, "aside", standing, standing, reason=trouble))

    def delete(self, name: str) -> "Future[None]":
        """Erase a stream: memory and metric series now, files soon, its own mark first; returns when all are gone.

        Raises:
            NotFound: If there is none.
        """
        self.doomed(name)
        erased = [self._shelf.erase(name, self._generation(name)), *map(self.delete, self._families.of(name))]
        self._forget(name)
        self._remnants.pop(name, None)
        if (parent := self._streams.get(stream_of_domain(name))) and parent.whereabouts:
            parent.whereabouts = parent.whereabouts.without(name)
        self._generations.pop(name, None)
        self._metrics.moved("deleted")
        return together(erased)

    def _leave(self, stream: str) -> None:
        for name in (*self._families.of(stream), stream):
            self._forget(name)
            self._shelf.forget(name)
        self._unread.pop(stream, None)
        self._remnants.pop(stream, None)
        self._generations.pop(stream, None)

    def listed(self, name: str) -> Summary | None:
        """Return what lists say of a stream, which may have to be read; None if only snapshots are left of it."""
        try:
            return self.summary(name)
        except NotFound:
            return None
        except NotReady as error:
            return Summary(name, self.modes.usual(name)).aside(str(error))
        except Exception as error:
            self.set_aside(name, error)
            return self._aside[name]

    def _take_in(self, stream: str, parked: Mapping[str, Parked], wrong: Mapping[str, Exception]) -> None:
        self._parked |= parked
        for name in (*parked, *wrong):
            self._families.add(name)
        for name, error in wrong.items():
            self.set_aside(name, error)
        if self._dimensions and self._families.of(stream) and stream not in self:  # nothing of its own was written
            self._add(self._fresh(stream, self.modes.usual(stream), self._methods.default))
        for name, found in parked.items():
            at = Standing(found.summary.state_version, found.serve)
            told = StreamEvent(name, "load", at, at, reason="it was on disk", extra=found.origin, digest=found.digest)
            self._news.tell(told)

    def _hear(self, event: StreamEvent) -> None:
        """Count a stream's memory anew, and see when its window is due."""
        if event.subject and self._streams.get(event.stream) is event.subject and event.kind != "answered":
            self._settle(event.subject)

    def _settle(self, stream: Stream) -> None:
        self._agenda.settle(stream)
        self._sizes.measure(stream)

    def _make_room(self) -> None:
        """Move what is idle longest to disk until the rest keeps to the limit; who was asked last stays."""
        if self._working:
            return
        while self._over_budget() and (name := self.idlest()):
            self.evict(name)
            self._shelf.drain(min(_MOST_LEAVING_BYTES, self._settings.max_bytes // 8))
        for stream in self.every_stream_in_memory() if self._over_budget() else ():
            try:
                stream.history.clear()
                self._sizes.measure(stream)
            except Exception as error:
                self.set_aside(stream.name, error)

    def _fresh(self, name: str, mode: Mode, method: Method) -> Stream:
        window = Window(self.pace.rows, self._settings.max_client_share, self._settings.duplicate_memory)
        kept = window, History(self._settings.history_bytes)
        stream = Stream(name, mode, method, method.initial, method.guard.start(), *kept)
        stream.mode_s = self.modes.of(name)[1]
        stream.version, stream.generation = self._least_version(name), self._generation(name)
        if is_domain(name):
            stream.parent = self.existing(stream_of_domain(name))
        elif self._dimensions:
            stream.whereabouts = Whereabouts.start(self._dimensions)
        return stream

    def _revive(self, name: str) -> None:
        parked = self._parked[name]
        stream = self._fresh(name, parked.summary.mode, parked.method)
        if not parked.tells_apart:
            stream.whereabouts = None
        contents = self._shelf.read(name, parked.method)
        revive(stream, contents)
        own = self.modes.of(name, contents.stored.mode, contents.stored.mode_s)
        stream.mode_s = stream.parent.mode_s if stream.parent else own[1]
        del self._parked[name]
        self._add(stream)
        self._metrics.moved("revived")
        if stream.whereabouts and stream.steps:
            before, waiting, how = stream.standing, self.start_again(stream), stream.method.described
            at = before, stream.standing, stream
            self._news.tell(StreamEvent(name, "settings", *at, reason=_APART_NOW, lost={"reset": waiting}, extra=how))

    def _add(self, stream: Stream) -> None:
        self._streams[stream.name] = stream
        self._families.add(stream.name)
        if not stream.parent:
            self._metrics.stream.open(stream.name, stream.method.adapter.name)
            if now := self.present(stream.name):
                self._metrics.stream.state(stream.name, stream.version, now.answers == "source", bool(now.frozen))
        self._count_domains(stream_of_domain(stream.name))
        self._settle(stream)

    def _forget(self, name: str) -> None:
        self._families.forget(name)
        self._count_domains(stream_of_domain(name))
        self._drop(name)
        self._aside.pop(name, None)

    def _drop(self, name: str) -> None:
        if name in self._streams:
            self._remove(name)
        self._parked.pop(name, None)
        self._metrics.stream.close(name)

    def _remove(self, name: str) -> None:
        del self._streams[name]
        self._agenda.drop(name)
        self._sizes.forget(name)

    def _count_domains(self, name: str) -> None:
        if name in self._streams and self._streams[name].whereabouts:
            self._metrics.stream.domains(name, len(self._families.of(name)))

    def _over_budget(self) -> bool:
        return self._sizes.total > self._settings.max_bytes

    def _report(self) -> None:
        parked, domains = len(self._parked) + len(self._unread), len(self._families)
        self._metrics.streams(len(self), parked, self._sizes.by_kind, len(self._aside), domains)
