"""What operators may do to streams; each change is written down with who asked for it and why."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, NamedTuple

from tta_server.adapters import State
from tta_server.errors import BadRequest, NotFound
from tta_server.runtime.worker import Parts
from tta_server.settings import Mode
from tta_server.storage.audit import Event
from tta_server.storage.store import Store
from tta_server.streams.event import EVERY, StreamEvent
from tta_server.streams.shelf import Shelf
from tta_server.streams.stream import Method, Standing, Stream
from tta_server.streams.summary import Summary
from tta_server.telemetry.closed_sets import DropReason


class Who(NamedTuple):
    """Who asks, and why.

    Attributes:
        name: As the API knows the caller.
        reason: What the caller wrote; may be empty where none is required.
    """

    name: str
    reason: str = ""


class Label(NamedTuple):
    """A true label that came later.

    Attributes:
        request_id: Of the request that was answered.
        place: Which image of it, from 0.
        label: Its true class.
    """

    request_id: str
    place: int
    label: int


class Commands:
    """Run operators' commands; the device thread alone may call it."""

    def __init__(self, parts: Parts, shelf: Shelf, store: Store) -> None:
        """Take the streams and where they are kept."""
        self._streams = parts.registry
        self._methods = parts.methods
        self._metrics = parts.metrics
        self._news = parts.news
        self._ledger = parts.ledger
        self._source = parts.answerer.source
        self._classes = parts.backbone.spec.classes
        self._shelf = shelf
        self._store = store

    def list(
        self, limit: int | None = None, after: str = "", wanted: Callable[[Summary], bool] = bool
    ) -> list[dict[str, Any]]:
        """Return what lists say of streams, by name.

        Args:
            limit: Most of them; None returns all.
            after: Only those whose names come later.
            wanted: Only those whose summary it accepts.
        """
        return [summary.told() for summary in islice(filter(wanted, self._streams.summaries(after)), limit)]

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
        return self._told(self._streams.existing(name))

    def create(self, name: str, mode: Mode | None, method: Method | None, who: Who) -> dict[str, Any]:
        """Open a stream before its first request.

        Args:
            name: Its name.
            mode: Its mode; None is the usual one.
            method: How it learns, as `Methods.prepare` made it elsewhere, for that takes long; None is the server's.
            who: Who asks.

        Raises:
            Conflict: If it exists.
            Overloaded: If there is no room for it.
        """
        usual = self._streams.modes.usual(name)
        stream = self._streams.create(name, mode or usual, method or self._methods.default)
        self._changed(stream, "create", stream.standing, who, _described(method) if method else None)
        return self._told(stream)

    def change(self, name: str, mode: Mode | None, method: Method | None, who: Who) -> dict[str, Any]:
        """Switch a stream's mode, its adapter's settings, or both.

        A state stays as long as the adapter and the layout of its states do; else the stream starts from the source.
        Setting a mode lifts a freeze.

        Args:
            name: The stream.
            mode: Its new mode; None leaves it.
            method: How it learns from now on, as for `create`; None leaves it.
            who: Who asks.

        Raises:
            NotFound: If there is no such stream.
        """
        stream = self._streams.existing(name)
        if method is not None:
            self._adapt_by(stream, method, who)
        if mode is not None:
            self._switch(stream, mode, who)
        return self._told(stream)

    def change_all(self, mode: Mode | None, who: Who) -> dict[str, Any]:
        """Switch every stream, and those to come, until the process ends; what is set later for one stream wins.

        Streams that the guard froze stay so: only a command for that stream lifts it.

        Args:
            mode: The mode; None goes back to what the configuration says of each.
            who: Who asks.

        Returns:
            What was asked for, and how many streams are in which mode now.
        """
        self._streams.switch(mode)
        for stream in self._streams.every_stream_in_memory():
            usual = self._streams.modes.usual(stream.name)
            if stream.mode != usual and not stream.frozen:
                self._switch(stream, usual, who)
        nothing, extra = Standing(0), {"mode": mode or "configured"}
        told = StreamEvent(EVERY, "mode", nothing, nothing, None, "operator", who.reason, who.name, extra=extra)
        self._news.tell(told)
        modes = Counter(summary.mode for summary in self._streams.summaries())
        return {"mode": mode or "configured", "streams": dict(modes)}

    def reset(self, name: str, who: Who) -> dict[str, Any]:
        """Put a stream back to the source model; a freeze is lifted if it was what switched the stream off.

        Raises:
            NotFound: If there is none.
        """
        stream = self._streams.existing(name)
        before = stream.standing
        if stream.frozen:
            stream.mode = self._streams.modes.usual(name)
        waiting = stream.reset()
        self._changed(stream, "reset", before, who, waiting=waiting)
        return self._told(stream)

    def rollback(self, name: str, version: int | None, who: Who) -> dict[str, Any]:
        """Go back to an earlier version, or to the newest other one that passed the guard's complete check.

        Raises:
            NotFound: If there is no such stream, or the version is not kept.
        """
        stream = self._streams.existing(name)
        kept = stream.history.newest_passed(stream.state) if version is None else stream.history.find(version)
        if kept is None:
            wanted = "that passed the guard's complete check" if version is None else f"{version}"
            have = ", ".join(map(str, stream.history.versions)) or "none"
            raise NotFound(f"stream '{name}' keeps no version {wanted}; it keeps {have}")
        before = stream.standing
        stream.go_to(kept.state, kept.steps, kept.passed)
        stream.serve = "adapted"
        self._changed(stream, "rollback", before, who, {"to": kept.version})
        return self._told(stream)

    def snapshot(self, name: str, note: str) -> "Future[str]":
        """Keep the state until it is deleted; returns the snapshot's id to come: then call `note_snapshot`.

        Raises:
            NotFound: If there is no such stream.
        """
        return self._shelf.snapshot(self._streams.existing(name), note)

    def note_snapshot(self, name: str, snapshot: str, who: Who) -> None:
        """Write down that a snapshot was kept.

        Raises:
            NotFound: If there is no such stream any more.
        """
        stream = self._streams.existing(name)
        self._changed(stream, "snapshot", stream.standing, who, {"snapshot": snapshot})

    def restore(self, name: str, snapshot: str, who: Who) -> dict[str, Any]:
        """Take over a snapshot's state.

        Raises:
            NotFound: If there is no such stream or snapshot.
            BadRequest: If it belongs to other weights or another adapter.
        """
        stream = self._streams.existing(name)
        data = self._store.read(name, snapshot)
        if data is None:
            raise NotFound(f"stream '{name}' has no snapshot '{snapshot}'")
        adopted = self._shelf.adopted(stream.method, data)
        return self._go_on(stream, adopted, "restore", who, {"snapshot": snapshot})

    def export(self, name: str) -> bytes:
        """Return a stream's state as a file.

        Raises:
            NotFound: If there is no such stream.
        """
        return self._shelf.export(self._streams.existing(name))

    def adopt(self, name: str, data: bytes, who: Who) -> dict[str, Any]:
        """Take over the state in a file, which `export` made here or on another server; a new stream is opened for it.

        Raises:
            Overloaded: If the stream is new and there is no room for it.
            BadRequest: If it is no state file, or belongs to other weights or another adapter.
        """
        known = self._streams.existing(name) if name in self._streams else None
        adopted = self._shelf.adopted(known.method if known else self._methods.default, data)
        stream = known or self._streams.create(name, self._streams.modes.usual(name), self._methods.default)
        return self._go_on(stream, adopted, "import", who, {})

    def delete(self, name: str, who: Who) -> "Future[None]":
        """Erase a stream: memory, files, metric series, and what is known for labels to come.

        Returns:
            When the files are gone, or the OSError: it is tried again before anything of that name is written.

        Raises:
            NotFound: If there is none.
        """
        standing = Standing(self._streams.summary(name).state_version)
        erased = self._streams.delete(name)
        self._news.tell(StreamEvent(name, "delete", standing, standing, None, "operator", who.reason, who.name))
        return erased

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

        Raises:
            BadRequest: If a label is no class of the model.
        """
        if wrong := [each for each in labels if not 0 <= each.label < self._classes]:
            raise BadRequest(f"label {wrong[0].label} is no class; the model has {self._classes}, counted from 0")
        found = [self._ledger.label(each.request_id, each.place, each.label, self._source) for each in labels]
        streams = sorted({stream for stream in found if stream})
        for stream in streams:
            numbers = self._ledger.accuracy(stream)
            self._metrics.stream.accuracy(stream, numbers["adapted"].get("accuracy"), numbers["source"].get("accuracy"))
        return {
            "counted": sum(stream is not None for stream in found),
            "unknown": sum(stream is None for stream in found),
            "streams": {stream: self._ledger.accuracy(stream) for stream in streams},
        }

    def _switch(self, stream: Stream, mode: Mode, who: Who) -> None:
        old, stream.mode = stream.mode, mode
        stream.frozen, stream.restores = "", 0
        self._changed(stream, "mode", stream.standing, who._replace(reason=who.reason or f"{old} -> {mode}"))

    def _adapt_by(self, stream: Stream, method: Method, who: Who) -> None:
        before, old, waiting = stream.standing, stream.method, 0
        stream.method = method
        if method.adapter.name != old.adapter.name or _layout(method) != _layout(old):
            stream.history.clear()
            waiting = stream.reset()
        elif stream.state is old.initial:
            stream.state = method.initial
        stream.memory = method.guard.start()
        self._changed(stream, "settings", before, who, _described(method), waiting)

    def _go_on(
        self, stream: Stream, adopted: tuple[State, int], event: Event, who: Who, extra: dict[str, Any]
    ) -> dict[str, Any]:
        before = stream.standing
        stream.go_to(*adopted)
        stream.serve = "adapted"
        self._changed(stream, event, before, who, extra)
        return self._told(stream)

    def _changed(
        self,
        stream: Stream,
        event: Event,
        before: Standing,
        who: Who,
        extra: dict[str, Any] | None = None,
        waiting: int = 0,
    ) -> None:
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
            )
        )

    def _told(self, stream: Stream) -> dict[str, Any]:
        return stream.details() | {"labelled": self._ledger.accuracy(stream.name)}


def _described(method: Method) -> dict[str, Any]:
    fields = dataclasses.asdict(method.adapter)  # type: ignore[call-overload]
    given = {name: value for name, value in fields.items() if not callable(value)}
    return {"adapter": method.adapter.name, "settings": given}


def _layout(method: Method) -> dict[str, Any]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in method.initial.items()}
