"""What operators may do to streams; each change is written down with who asked for it and why."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from math import inf
from typing import Any

from tta_server.adapters.stack import layout
from tta_server.errors import BadRequest, NotFound, NotReady, SetAside
from tta_server.names import is_domain, stream_of_domain
from tta_server.runtime.commands.compare_commands import CompareCommands
from tta_server.runtime.commands.desk import Desk, Who
from tta_server.runtime.commands.domain_commands import DomainCommands
from tta_server.runtime.commands.drift_commands import DriftCommands
from tta_server.runtime.commands.state_commands import StateCommands
from tta_server.runtime.work.parts import Parts
from tta_server.settings import Mode
from tta_server.storage.pending import together
from tta_server.storage.store import Store
from tta_server.streams.event import EVERY, StreamEvent
from tta_server.streams.files.shelf import Shelf
from tta_server.streams.ledger import Label
from tta_server.streams.stream import Method, Standing, Stream
from tta_server.streams.summary import Listed, Summary


class Commands:
    """Run operators' commands; the device thread alone may call it.

    Attributes:
        domains: Those about the domains of streams.
        states: Those about states as files.
        drift: What is known of the drift of streams.
        beside: What streams and the frozen model say of images.
    """

    def __init__(self, parts: Parts, shelf: Shelf, store: Store, most_domains: int) -> None:
        """Take the streams, where they are kept, and how many domains each may have; 1 if none are told apart."""
        self._desk = Desk(parts)
        self.domains = DomainCommands(self._desk, most_domains)
        self.states = StateCommands(self._desk, self.domains, shelf, store)
        self.beside = CompareCommands(self._desk, parts.answerer, parts.router)
        self.drift = DriftCommands(self._desk, self.domains, self.beside, parts.watcher, parts.router)
        self._streams = parts.registry
        self._shelf = shelf
        self._newcomers = parts.newcomers
        self._methods = parts.methods
        self._metrics = parts.metrics
        self._ledger = parts.ledger
        self._source = parts.answerer.source
        self._classes = parts.answers.spec.classes

    def list(
        self,
        limit: int | None = None,
        after: str = "",
        named: Callable[[str], bool] = bool,
        wanted: Callable[[Summary], bool] = bool,
        within_s: float = inf,
    ) -> Listed:
        """Return what lists say of streams, by name; what was not read yet is read for it.

        Args:
            limit: Most of them; None returns all.
            after: Only those whose names come later.
            named: Only those whose names it accepts; no other is read.
            wanted: Only those whose summary it accepts.
            within_s: The rest is left once it took as long.
        """
        names, found = [*self._streams.names(after)], []  # sorted, which takes its own time
        end_s = time.monotonic() + within_s
        for name in filter(named, names):
            summary = self._streams.listed(name)
            if summary and wanted(summary):
                found.append(summary.told())
            if len(found) == limit:
                break
            if time.monotonic() >= end_s:
                return Listed(found, name)
        return Listed(found)

    def check(self, name: str) -> None:
        """Do nothing if there is such a stream, in memory or on disk.

        Raises:
            NotFound: If there is none.
        """
        self._streams.summary(name)

    def read(self, name: str) -> dict[str, Any]:
        """Return everything about one stream.

        Raises:
            NotFound: If there is none.
        """
        return self._desk.told(self._streams.existing(name))

    def create(self, name: str, mode: Mode | None, method: Method | None, who: Who) -> dict[str, Any]:
        """Open a stream before its first request.

        Args:
            name: Its name.
            mode: Its mode; None is the usual one.
            method: How it learns, as `Methods.prepare` made it elsewhere, for that takes long; None is the server's.
            who: Who asks.

        Raises:
            Conflict: If it exists.
            StreamsFull: If there is no room for it.
        """
        usual = self._streams.modes.usual(name)
        stream = self._desk.open(name, mode or usual, method or self._methods.default)
        stream.mode_s = time.time() if mode else stream.mode_s
        self._desk.changed(stream, "create", stream.standing, who, method.described if method else None)
        return self._desk.told(stream)

    def change(self, name: str, mode: Mode | None, method: Method | None, who: Who) -> dict[str, Any]:
        """Switch a stream's mode, its adapter's settings, or both.

        A state stays as long as the adapter and the layout of its states do; else the stream starts from the source.
        Setting a mode lifts a freeze. Domains learn as their stream does: what is changed of a stream is changed of
        each of them.

        Args:
            name: The stream.
            mode: Its new mode; None leaves it.
            method: How it learns from now on, as for `create`; None leaves it.
            who: Who asks.

        Raises:
            NotFound: If there is no such stream.
            BadRequest: If it is a domain and is to learn in another way than its stream.
        """
        with self._streams.at_work():
            stream = self._streams.existing(name)
            if method is not None and stream.parent:
                raise BadRequest(f"a domain learns as its stream does; change stream '{stream.parent.name}'")
            for each in (stream, *self._desk.domains_of(stream)):
                if method is not None:
                    self._adapt_by(each, method, who)
                if mode is not None:
                    self._switch(each, mode, time.time(), who)
            return self._desk.told(stream)

    def change_all(self, mode: Mode | None, who: Who) -> dict[str, Any]:
        """Switch every stream, and those to come, until the process ends; what is set later for one stream wins.

        Streams that the guard froze stay so: only a command for that stream lifts it.

        Args:
            mode: The mode; None goes back to what the configuration says of each.
            who: Who asks.

        Returns:
            What was asked for, and how many streams are in which mode now; those on disk that were not read yet, which
            is not done for this, take it when they are.
        """
        self._streams.switch(mode)
        for stream in self._streams.every_stream_in_memory():
            usual = self._streams.modes.of(stream.name)
            if (stream.mode, stream.mode_s) != usual and not stream.frozen:
                self._switch(stream, *usual, who)
        nothing, extra = Standing(0), {"mode": mode or "configured"}
        self._desk.switched(StreamEvent(EVERY, "mode", nothing, nothing, extra=extra), who)
        known = dict(self._streams.count_modes())
        return {"mode": mode or "configured", "streams": known, "unread": self._streams.count_unread()}

    def note_gathering(self, about: dict[str, Any], who: Who) -> None:
        """Tell that images are taken as home, or what became of that."""
        self._desk.switched(StreamEvent(EVERY, "calibrate", Standing(0), Standing(0), extra=about), who)

    def reset(self, name: str, who: Who) -> "tuple[dict[str, Any], Future[None]]":
        """Put a stream back to the source model; a freeze is lifted if it was what switched the stream off.

        A stream forgets its domains, and tells them apart from now on if streams of this server do.

        Returns:
            Everything about it; and when the files of its domains are gone, or the OSError: it is tried again, and once
            the stream is written none of them is its any more.

        Raises:
            NotFound: If there is none.
        """
        stream = self._streams.existing(name)
        before = stream.standing
        if stream.frozen:
            stream.mode, stream.mode_s = self._streams.modes.of(name)
        waiting, forgotten = self._streams.start_again(stream), self._streams.domain_names(name)
        waiting += sum(self._streams.summary(domain).images_in_window for domain in forgotten)
        erased = [self._streams.delete(domain) for domain in forgotten]
        self._desk.changed(stream, "reset", before, who, {"domains": forgotten} if forgotten else {}, waiting)
        return self._desk.told(stream), together(erased)

    def rollback(self, name: str, version: int | None, who: Who) -> dict[str, Any]:
        """Go back to an earlier version, or to the newest other one that passed the guard's complete check.

        Raises:
            NotFound: If there is no such stream, or the version is not kept.
            Conflict: If it keeps a state for each of its domains.
        """
        stream = self._desk.one_state(name)
        kept = stream.history.newest_passed(stream.state) if version is None else stream.history.find(version)
        if kept is None:
            wanted = "that passed the guard's complete check" if version is None else f"{version}"
            have = ", ".join(map(str, stream.history.versions)) or "none"
            raise NotFound(f"stream '{name}' keeps no version {wanted}; it keeps {have}")
        before = stream.standing
        stream.go_to(kept.state, kept.steps, kept.passed)
        stream.serve = "adapted"
        self._desk.changed(stream, "rollback", before, who, {"to": kept.version})
        return self._desk.told(stream)

    def delete(self, name: str, who: Who) -> "Future[None]":
        """Erase a stream: memory, files, metric series, and what is known for labels to come; or a domain of one.

        The next image that looks like those of a domain that is gone opens a new one. What is gone, but has files that
        could not be erased yet, can be deleted again.

        Returns:
            When the files are gone, or the OSError: it is tried again, see `Keeper.delete`.

        Raises:
            NotFound: If there is none.
            NotReady: If it is a domain, and its stream cannot be read now; what is itself unreadable can be erased.
        """
        try:
            summary = self._streams.doomed(name)
        except NotFound:
            if not (left := self._shelf.unerased(name)):
                raise
            return together([self._shelf.erase(each) for each in left])
        whose = self._whose(name)
        erased = self._streams.delete(name)
        standing = Standing(summary.state_version)
        self._desk.switched(StreamEvent(name, "delete", standing, standing), who)
        if whose and whose.whereabouts:
            whose.strange = ()  # some of them may have been of it
            if whose.whereabouts.current == name:
                whose.whereabouts = whose.whereabouts.at("")
            self._desk.changed(whose, "forget", whose.standing, who, {"domain": name}, summary.images_in_window)
        return erased

    def hold(self, stream: str, generation: int, there: bool, domains: Sequence[str] = ()) -> None:
        """Have a stream for this server, and read it if the storage lets it be read; see `Registry.hold`."""
        self._streams.hold(stream, generation, there, domains)
        with suppress(NotReady):  # held all the same, or each request would take it anew; the request itself hears it
            self._streams.arrive(stream)

    def park(self, stream: str) -> None:
        """Have everything of a stream written that is in memory."""
        if self._streams.in_memory(stream):
            self._streams.evict(stream)

    def drop(self, stream: str, generation: int) -> None:
        """Know a stream no more that another server has, unless it was taken again since."""
        self._streams.drop(stream, generation)
        if stream not in self._streams:
            self._newcomers.forget(stream)

    def save(self) -> None:
        """Have everything written, as before the process ends."""
        self._streams.save()

    def evict(self, name: str) -> None:
        """Move a stream to disk until it is asked again.

        Raises:
            NotFound: If there is no such stream, or it is on disk already.
        """
        self.check(name)
        self._streams.evict(name)

    def label(self, labels: Sequence[Label]) -> dict[str, Any]:
        """Count true labels; return how many were new, and the exact accuracy of each stream that they are about.

        Args:
            labels: What `whose` has returned; those whose request was forgotten since are unknown.
        """
        found = self._ledger.label(labels, self._source)
        streams = sorted({stream for stream in found if stream})
        for stream in streams:
            numbers = self._ledger.accuracy(stream).items()
            right = {of: each["accuracy"] for of, each in numbers if each["labels"]}
            self._metrics.stream.accuracy(stream, right, self._ledger.gain_sigmas(stream))
        counted = sum(stream is not None for stream in found)
        return {
            "counted": counted,
            "unknown": len(labels) - counted,
            "streams": {stream: self._ledger.accuracy(stream) for stream in streams},
        }

    def whose(self, labels: Sequence[Label], may: Callable[[str], bool]) -> Sequence[Label]:
        """Return the labels that are of answered requests, each with its stream, as `label` takes them.

        Args:
            labels: The labels.
            may: Which streams the caller may speak of; others are unknown to him.

        Raises:
            BadRequest: If a label is no class of the model, or may be of several streams.
        """
        if wrong := [each for each in labels if not 0 <= each.label < self._classes]:
            raise BadRequest(f"label {wrong[0].label} is no class; the model has {self._classes}, counted from 0")
        found = ((each, self._labelled(each, may)) for each in labels)
        return [each._replace(stream=stream) for each, stream in found if stream]

    def _labelled(self, label: Label, may: Callable[[str], bool]) -> str:
        """Return the stream that a label is of; empty if it is of none."""
        known = [each for each in self._ledger.streams_of(label.request_id) if may(each)]
        if label.stream:
            return label.stream if label.stream in known else ""
        if len(known) > 1:
            raise BadRequest(
                f"{len(known)} streams have a request called '{label.request_id}'; say which is meant with 'stream'"
            )
        return known[0] if known else ""

    def _whose(self, name: str) -> Stream | None:
        """Return the stream that a domain belongs to, if that can go on; None of what is no domain."""
        try:
            return self._streams.existing(stream_of_domain(name)) if is_domain(name) else None
        except SetAside:
            return None

    def _switch(self, stream: Stream, mode: Mode, given_s: float, who: Who) -> None:
        old, stream.mode, stream.mode_s = stream.mode, mode, given_s
        stream.frozen, stream.restores = "", 0
        self._desk.changed(stream, "mode", stream.standing, who._replace(reason=who.reason or f"{old} -> {mode}"))

    def _adapt_by(self, stream: Stream, method: Method, who: Who) -> None:
        before, old, waiting = stream.standing, stream.method, 0
        stream.method = method
        if method.adapter.name != old.adapter.name or layout(method.initial) != layout(old.initial):
            stream.history.clear()
            waiting = stream.reset()
        elif stream.state is old.initial:
            stream.state = method.initial
        stream.memory = method.guard.start()
        self._desk.changed(stream, "settings", before, who, method.described, waiting)
