"""The streams that are on disk and were not asked for yet: each is read when it is, or when there is nothing to do."""

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice

from tta_server.errors import Moved, NotReady
from tta_server.names import is_domain, stream_of_domain
from tta_server.settings import Mode
from tta_server.storage.owners import VERSIONS_PER_GENERATION
from tta_server.streams.directory import Directory
from tta_server.streams.files.parked import Parked
from tta_server.streams.files.shelf import MisfitError, Shelf
from tta_server.streams.methods import Methods
from tta_server.streams.modes import Modes
from tta_server.streams.present import as_source, source_because
from tta_server.streams.stream import Answering, Stream
from tta_server.streams.summary import Summary
from tta_server.streams.whereabouts import Whereabouts

log = logging.getLogger(__name__)

_TRIED = 8
_REST_S = 30.0
_SHARE = 0.1  # of the time, for streams that nobody asks for, while requests come


class Stock(Directory):
    """Know which streams are on disk, and where several servers share it, which of them this one has."""

    def __init__(self, shelf: Shelf, modes: Modes, methods: Methods, dimensions: int) -> None:
        """Start without a stream.

        Args:
            shelf: Reads them.
            modes: The mode of a stream whose file does not say.
            methods: How streams learn.
            dimensions: Of a style; 0 if no domains are told apart.
        """
        super().__init__()
        self.modes = modes
        self._shelf = shelf
        self._methods = methods
        self._dimensions = dimensions
        self._unread: dict[str, list[str]] = {}  # and the domains that have files
        # Of which there were files, but no state, to be erased if somebody asks; and the domains that are no more.
        self._remnants: dict[str, Sequence[str]] = {}
        self._read_on_s = 0.0  # not before, on the monotonic clock, is a stream read that nobody asks for
        self._generations: dict[str, int] = {}  # with which the streams are held that others could take

    def __len__(self) -> int:
        return super().__len__() + len(self._unread)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._unread

    @property
    def tells_apart(self) -> bool:
        """Whether streams tell domains apart."""
        return self._dimensions > 0

    @property
    def unread_s(self) -> float:
        """When the next stream that was not read yet may be, on the monotonic clock; infinite if there is none."""
        return self._read_on_s if self._unread else math.inf

    def count_unread(self) -> int:
        """Return how many streams were not read yet."""
        return len(self._unread)

    def drop(self, stream: str, generation: int) -> None:
        """Know a stream no more that is another server's, if it is held with this generation; what waits is lost."""
        if self._generations.get(stream) == generation:
            self._leave(stream)

    def save(self) -> None:
        """Have every stream in memory written whole, as before the process ends."""
        for stream in list(self._streams.values()):
            try:
                self._shelf.save(stream, whole=True)
            except Exception:
                log.exception("stream '%s' cannot be written; its file is of an earlier version", stream.name)

    def start_again(self, stream: Stream) -> int:
        """Put a stream back to the source, without domains; returns how many images waited."""
        if self._dimensions and not stream.parent:
            stream.whereabouts = (stream.whereabouts or Whereabouts.start(self._dimensions)).home()
        return stream.reset()

    def load(self, names: Sequence[str]) -> None:
        """Know the streams and domains that are on disk already; where others have some, that is for `hold` to say.

        Raises:
            ValueError: If of the first few that are looked at none fits what is served.
        """
        streams: dict[str, list[str]] = {}
        for name in names:
            streams.setdefault(stream_of_domain(name), []).extend([name] if is_domain(name) else ())
        self._expect_fit(streams)
        if not self._shelf.shared:
            self._unread = streams

    def hold(self, stream: str, generation: int, there: bool, domains: Sequence[str] = ()) -> None:
        """Have a stream of a shared place for this server, anew if it had it before.

        Args:
            stream: The stream.
            generation: With which it is held.
            there: Whether there are files.
            domains: The domains that have files.
        """
        self._leave(stream)
        self._generations[stream] = generation
        if there:
            self._unread[stream] = [*domains]

    def read_on(self, asked: bool) -> None:
        """Read one stream that nobody asked for yet, if that is due; if it fails the storage has its rest.

        Args:
            asked: Whether requests come: the next one is read after a while, so that they seldom find it at work.
        """
        began_s = time.monotonic()
        if self.unread_s > began_s:
            return
        stream = next(iter(self._unread))
        try:
            self.arrive(stream)
        except NotReady as error:
            log.warning("%s", error)
            self._unread[stream] = self._unread.pop(stream)
            self._read_on_s = time.monotonic() + _REST_S
        else:
            now_s = time.monotonic()
            self._read_on_s = now_s + (now_s - began_s) * (1 / _SHARE - 1) * asked

    def arrive(self, name: str, doomed: str = "") -> None:
        """Have what is on disk of a stream, or a domain, known before it is touched.

        Args:
            name: The stream or domain.
            doomed: What is about to be erased, and so need not be readable: then it is set aside.

        Raises:
            Moved: If other servers could have the stream, and this one does not.
            NotReady: If the storage cannot be read now.
        """
        if not (self._unread or self._shelf.shared):
            return
        stream = stream_of_domain(name)
        if self._shelf.shared and stream not in self._generations:
            raise Moved(stream)
        if stream in self._unread:
            parked, wrong, gone = self._read(stream, self._unread[stream], doomed)
            del self._unread[stream]
            if not (parked or wrong):
                self._remnants[stream] = gone
            self._take_in(stream, parked, wrong)
            with suppress(OSError):  # at the end; who reads them next does it
                for domain in gone:
                    self._shelf.erase(domain, self._generation(stream))

    def spent(self, stream: str) -> list[str]:
        """Return the domains whose names a stream may not use anew: those that it has, and what is being erased."""
        return [*self.domain_names(stream), *self._remnants.get(stream, ())]

    def summary(self, name: str) -> Summary:
        """Return the summary of a stream, wherever it is.

        Raises:
            NotFound: If there is none.
            Moved: See `arrive`.
        """
        self.arrive(name)
        return super().summary(name)

    def doomed(self, name: str) -> Summary:
        """Return the summary of what is about to be erased, whether or not it can be read, or goes on at all.

        Raises:
            NotFound: If there is none.
            Moved: See `arrive`.
            NotReady: If it is a domain, and its stream cannot be read now.
        """
        self.arrive(name, doomed=name)
        if name in self._remnants and name not in self:
            return Summary(name, self.modes.usual(name))
        return super().summary(name)

    def peek(self, name: str) -> Answering:
        """Return who answers for a stream that may not exist; touches nothing."""
        if found := self.known(name):
            return found.answering
        mode, apart = self.modes.usual(name), bool(self._dimensions)
        because = source_because(mode, "adapted", unweighed=False, apart=apart)
        return Answering(mode, as_source(mode, because), self._methods.default, apart and mode != "off")

    def switch(self, mode: Mode | None) -> None:
        """Give future streams, and those on disk that the guard did not freeze, this mode; None is as configured."""
        self.modes.switch(mode)
        for name, parked in self._parked.items():
            if not parked.summary.frozen:
                self._parked[name] = parked.in_mode(self.modes.usual(name))

    def _everywhere(self) -> Iterator[str]:
        return chain(super()._everywhere(), self._unread)

    def _least_version(self, name: str) -> int:
        return self._generation(name) * VERSIONS_PER_GENERATION

    def _generation(self, name: str) -> int:
        return self._generations.get(stream_of_domain(name), 0)

    @abstractmethod
    def _take_in(self, stream: str, parked: Mapping[str, Parked], wrong: Mapping[str, Exception]) -> None:
        """Know a stream that was read: what goes on of it and its domains, and why the rest cannot."""

    @abstractmethod
    def _leave(self, stream: str) -> None:
        """Know a stream and its domains no more, and write nothing of them that waits."""

    def _read(
        self, stream: str, domains: Sequence[str], doomed: str = ""
    ) -> tuple[dict[str, Parked], dict[str, Exception], list[str]]:
        """Read a stream and its domains, and return what goes on, what cannot and why, and which domains are no more.

        A stream's file says which domains are no more: it may have been written when they could not be erased. Where
        others may have left files it also says which there are.
        """
        parked: dict[str, Parked] = {}
        wrong: dict[str, Exception] = {}
        self._find(stream, parked, wrong, doomed)
        found, shared = parked.get(stream), self._shelf.shared
        gone = [domain for domain in domains if (found.disowns(domain) if found else shared and stream not in wrong)]
        there = [domain for domain in domains if domain not in gone]
        if shared:
            there = [*found.domains] if found else []
        for domain in there:
            self._find(domain, parked, wrong, doomed)
            if found and domain in parked and not parked[domain].summary.frozen:  # it learns as that does
                parked[domain] = parked[domain].in_mode(found.summary.mode)
        return parked, wrong, gone

    def _find(self, name: str, parked: dict[str, Parked], wrong: dict[str, Exception], doomed: str) -> None:
        try:
            if found := self._shelf.find(name, self.modes, self._methods, self._least_version(name)):
                parked[name] = found
        except NotReady as error:
            if doomed not in (name, stream_of_domain(name)):
                raise
            wrong[name] = error
        except Exception as error:
            wrong[name] = error

    def _expect_fit(self, names: Mapping[str, Sequence[str]]) -> None:
        misfits: list[tuple[str, Exception]] = []
        for stream in islice(names, _TRIED):
            try:
                parked, wrong, _ = self._read(stream, names[stream])
            except NotReady:  # it may fit
                return
            if parked:
                return
            misfits += [(name, error) for name, error in wrong.items() if isinstance(error, MisfitError)]
        for name, error in misfits:
            raise ValueError(
                f"storage holds stream '{name}', which does not fit: {error}; serve what it was made with, or set "
                "storage.url to another folder"
            ) from error
