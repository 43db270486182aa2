"""Streams as files: what is written of a stream, and how it is put together again."""

from collections import Counter
from concurrent.futures import Future
from dataclasses import replace
from typing import NamedTuple

import torch

from tta_server.adapters import Adapter, State
from tta_server.adapters.checkpoint import dump_state, load_beside, load_state, read_about, state_digest
from tta_server.domains.place import Place
from tta_server.domains.space import StyleSpace
from tta_server.drift.watch import Watch
from tta_server.errors import BadRequest, NotReady
from tta_server.guard.record import estimated_gain
from tta_server.guard.verdict import Memory
from tta_server.models import Backbone, Reference, Tensors
from tta_server.names import is_title
from tta_server.storage.keeper import Keeper
from tta_server.streams.files.located import (
    Located,
    go_on,
    locate,
    name_space,
    stored_place,
    stored_whereabouts,
    tensors_of,
)
from tta_server.streams.files.parked import Parked, remembered
from tta_server.streams.files.stored import MOST_STEPS, SCHEMA, Stored, StoredImage, StoredState
from tta_server.streams.files.waiting import WINDOW, samples
from tta_server.streams.files.watched import arrays_of, stored_drift, watch_of
from tta_server.streams.history import Kept
from tta_server.streams.methods import Methods
from tta_server.streams.modes import Modes
from tta_server.streams.stream import Method, Stream, unweighed
from tta_server.streams.window import Sample

_GUARD, _HISTORY = "guard/", "history/"
_PATIENCE_S = 5.0


class Contents(NamedTuple):
    """What is in a stream's file.

    Attributes:
        stored: What it says of the stream.
        state: What the stream has learnt.
        memory: What the guard remembered.
        history: Earlier states, oldest first; the current one is among them.
        window: Images that waited.
        located: Where it has been, or where it lies.
        drift: How its input drifts.
    """

    stored: Stored
    state: State
    memory: Tensors
    history: list[Kept]
    window: list[Sample]
    located: Located
    drift: Watch


class MisfitError(ValueError):
    """A file is sound, but belongs to other weights or another adapter."""


class Shelf:
    """Write streams and read them; files go through the keeper.

    Attributes:
        shared: Whether other servers share what is on disk, so that a stream must be held before it is touched.
    """

    def __init__(
        self, keeper: Keeper, backbone: Backbone, reference: Reference | None, space: StyleSpace | None = None
    ) -> None:
        """Take what files are read and written with.

        Args:
            keeper: Reads and writes.
            backbone: The network that states belong to.
            reference: Its bundle, if there is one.
            space: Where styles are compared, if domains are told apart.
        """
        self.shared = keeper.shared
        self._keeper = keeper
        self._space = name_space(space)
        self._dimensions = len(space.mean) if space else 0
        self._backbone = backbone
        self._reference = reference
        self._leaving_bytes = 0

    def read(self, name: str, method: Method) -> Contents:
        """Return what was parked of a stream.

        Raises:
            MisfitError: If its file belongs to other weights or another adapter.
            ValueError: If what it holds cannot be used.
            NotReady: If the storage cannot be read now.
        """
        data = self._read(name)
        if data is None:
            raise ValueError("its file is gone; delete the stream")
        return self._contents(data, Stored.read(read_about(data)["about"], aloud=True), method)

    def find(self, name: str, modes: Modes, methods: Methods, least_version: int = 0) -> Parked | None:
        """Return what is to be remembered of a stream on disk, all of its file read; None if only snapshots are left.

        Args:
            name: The stream.
            modes: Say its mode if its file does not.
            methods: How streams learn.
            least_version: Its version from now on, if the file's is lower.

        Raises:
            MisfitError, ValueError, NotReady: See `read`.
        """
        data = self._read(name)
        if data is None:
            return None
        stored = Stored.read(read_about(data)["about"])
        method = methods.prepare(stored.adapter) if stored.adapter else methods.default
        found = self._contents(data, stored, method)
        mode = "off" if stored.frozen else modes.of(name, stored.mode, stored.mode_s)[0]
        summary = stored.summary(name, mode, method.adapter.name)
        summary = replace(summary, state_version=max(summary.state_version, least_version))
        # One that answered from one state before domains were told apart goes on as it was.
        one_state = stored.steps and not stored.learnt_unseen
        apart = bool(self._space) and not found.located.place and not one_state
        place, where = found.located.place, found.located.whereabouts
        about = stored.title, stored.since, stored.lately, *remembered(name, where), estimated_gain(found.memory)
        new = unweighed(method, place, stored.begun, stored.steps)
        from_file = stored.version, state_digest(found.state) if stored.steps else None
        return Parked(summary, stored.serve, new, method, place, apart, *about, *from_file).in_mode(mode)

    def save(self, stream: Stream, whole: bool = False) -> None:
        """Have a stream's state written soon; of the `whole` also earlier states and what waits in its window."""
        self._keeper.save(stream.name, stream.version, self._encoder(stream, whole), stream.generation)

    def park(self, stream: Stream) -> Parked:
        """Have a whole stream written soon, and return what to remember of it."""
        self.save(stream, whole=True)
        self._leaving_bytes += sum(stream.bytes.values())
        summary = replace(stream.summary(), in_memory=False)
        where = stream.whereabouts
        about = stream.title, stream.since, stream.lately, *remembered(stream.name, where), stream.gain
        apart = where is not None
        return Parked(summary, stream.serve, stream.unweighed, stream.method, stream.place, apart, *about)

    def drain(self, most_bytes: int) -> None:
        """Wait until parked streams are on disk if they may still take more memory than that.

        A disk that fails is not waited for: answers come first.
        """
        if self._leaving_bytes > most_bytes:
            if not self._keeper.trouble:
                self._keeper.flush(_PATIENCE_S)
            self._leaving_bytes = 0

    def snapshot(self, stream: Stream, note: str) -> "Future[str]":
        """Have a stream's state kept until it is erased; returns the snapshot's id to come."""
        state = self._encoder(stream, whole=False)
        return self._keeper.snapshot(stream.name, stream.version, state, note, stream.generation)

    def export(self, stream: Stream) -> bytes:
        """Return a stream's state as a file that `adopted` takes, here or on another server."""
        return self._encoder(stream, whole=False)()

    def adopted(self, method: Method, data: bytes) -> tuple[State, int]:
        """Return the state in `data` and how many steps made it, judged as a step would be.

        Raises:
            BadRequest: If it is no state file, belongs to other weights or another adapter, or no step could have
                made it.
        """
        try:
            state = load_state(method.adapter, self._backbone, data, self._reference)
            steps = read_about(data)["about"].get("steps", 1)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadRequest(str(error)) from error
        if type(steps) is not int or not 0 <= steps <= MOST_STEPS:
            raise BadRequest(f"the file says that {str(steps)[:30]} steps made the state, expected 0 to {MOST_STEPS}")
        if wrong := method.guard.vet(state, method.initial):
            raise BadRequest(f"the state is not taken over: {wrong.reason}")
        return state, max(steps, 1)

    def placed(self, data: bytes) -> tuple[Place, str]:
        """Return where the domain lies that `data` is of, and what an operator called it.

        Raises:
            BadRequest: If the file does not say, or not of the styles that are compared here.
        """
        try:
            stored = Stored.read(read_about(data)["about"])
            place = locate(stored, load_beside(data), self._space).place
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadRequest(str(error)) from error
        if place is None:
            raise BadRequest(
                "the file does not say where its domain lies; send it to a domain, or send one of a domain"
            )
        if len(place.centre) != self._dimensions:
            raise BadRequest(f"the place of the domain has {len(place.centre)} numbers, expected {self._dimensions}")
        return place, stored.title if is_title(stored.title) else ""

    def erase(self, name: str, generation: int = 0) -> "Future[None]":
        """Have everything of a stream erased; returns when that is done, or the OSError."""
        return self._keeper.delete(name, generation)

    def unerased(self, name: str) -> list[str]:
        """Return what is gone and has files that are still to be erased, where no other server can have it anew."""
        return [] if self._keeper.shared else self._keeper.unerased(name)

    def forget(self, name: str) -> None:
        """Write nothing more of a stream that waits to be written."""
        self._keeper.forget(name)

    def _read(self, name: str) -> bytes | None:
        try:
            return self._keeper.read(name)
        except OSError as error:
            reason = error.strerror or error
            raise NotReady(f"the file of stream '{name}' cannot be read now: {reason}; ask again") from error

    def _contents(self, data: bytes, stored: Stored, method: Method) -> Contents:
        try:
            state = load_state(method.adapter, self._backbone, data, self._reference)
        except ValueError as error:
            raise (MisfitError(str(error)) if self._belongs_elsewhere(data, method) else error) from error
        beside = load_beside(data)
        history = [
            Kept(kept.version, kept.steps, _kept_state(kept, stored, state, beside), kept.passed)
            for kept in stored.history
        ]
        memory = {name[len(_GUARD) :]: tensor for name, tensor in beside.items() if name.startswith(_GUARD)}
        located = locate(stored, beside, self._space)
        drift = watch_of(stored.drift, beside)
        return Contents(stored, state, memory, history, samples(stored.window, beside), located, drift)

    def _belongs_elsewhere(self, data: bytes, method: Method) -> bool:
        """Say whether a file that does not fit is as it was written: by another model, adapter or settings."""
        found = read_about(data)
        if not all(isinstance(found[key], str) for key in ("adapter", "model", "digest")):
            return False
        here = read_about(dump_state(method.adapter, self._backbone, {}))
        return any(found.get(key) != here[key] for key in ("adapter", "digest", "settings"))

    def _encoder(self, stream: Stream, whole: bool) -> "_Encoder":
        rows = list(stream.window) if whole else []
        history = [kept for kept in stream.history if whole or kept.version == stream.version]
        stored = Stored(
            schema=SCHEMA,
            stream=stream.name,
            mode=stream.mode,
            mode_s=stream.mode_s,
            adapter=stream.method.section,
            version=stream.version,
            steps=stream.steps,
            images=stream.images,
            learnt=stream.learnt,
            dropped=dict(stream.dropped),
            serve=stream.serve,
            restores=stream.restores,
            frozen=stream.frozen,
            entropy_ratio=stream.entropy_ratio,
            confidence=stream.confidence,
            verdicts=list(stream.verdicts),
            history=[StoredState(kept.version, kept.steps, kept.passed) for kept in history],
            window=[StoredImage(row.digest.hex(), row.client, row.arrived_s) for row in rows],
            recent=[digest.hex() for digest in stream.window.recent] if whole else [],
            whereabouts=stored_whereabouts(stream, self._space),
            place=stored_place(stream, self._space),
            title=stream.title,
            since=stream.since,
            begun=stream.begun,
            lately=stream.lately,
            drift=stored_drift(stream.drift),
        )
        older = {kept.version: kept.state for kept in history if kept.version != stream.version}
        return _Encoder(stream, self._backbone, stored, rows, older)


def revive(stream: Stream, contents: Contents) -> None:
    """Give a fresh stream everything that was parked of it.

    Raises:
        ValueError: If no step could have made its state.
    """
    stored = contents.stored
    if wrong := stream.method.guard.vet(contents.state, stream.method.initial, closely=False):
        raise ValueError(f"its state is not what a step could have made: {wrong.reason}")
    stream.version = max(stored.version, stream.version)
    stream.steps, stream.begun = stored.steps, stored.begun
    stream.state = contents.state if stored.steps or stored.begun else stream.method.initial
    stream.place, stream.title, stream.since = contents.located.place, stored.title, stored.since
    if stream.whereabouts and contents.located.whereabouts:
        stream.whereabouts = go_on(stream.whereabouts, contents.located.whereabouts)
    stream.lately, stream.drift = stored.lately, contents.drift
    stream.memory = _memory(stream.memory, contents.memory)
    stream.images, stream.learnt, stream.dropped = stored.images, stored.learnt, Counter(stored.dropped)
    stream.serve, stream.restores, stream.frozen = stored.serve, stored.restores, stored.frozen
    stream.entropy_ratio, stream.confidence = stored.entropy_ratio, stored.confidence
    stream.verdicts.extend(stored.verdicts)
    for kept in contents.history:
        current = kept.state is contents.state
        stream.history.add(kept._replace(state=stream.state, version=stream.version) if current else kept)
    stream.window.put_back(contents.window, map(bytes.fromhex, stored.recent))


class _Encoder:
    """Turn what a stream was into bytes, later and on another thread: everything in here is a value."""

    def __init__(
        self, stream: Stream, backbone: Backbone, stored: Stored, rows: list[Sample], older: dict[int, State]
    ) -> None:
        self._adapter: Adapter = stream.method.adapter
        self._state = stream.state
        self._memory = stream.memory
        self._backbone = backbone
        self._about = stored.written()  # now: what cannot be written is this stream's trouble, not the writer's
        self._rows = rows
        self._older = older
        self._where = {**tensors_of(stream), **arrays_of(stream.drift)}

    def __call__(self) -> bytes:
        beside = {f"{_GUARD}{name}": tensor for name, tensor in self._memory.items()}
        beside |= self._where
        beside |= {f"{WINDOW}{i:06d}": torch.from_numpy(row.image) for i, row in enumerate(self._rows)}
        for version, state in self._older.items():
            beside |= {f"{_HISTORY}{version}/{name}": tensor for name, tensor in state.items()}
        return dump_state(self._adapter, self._backbone, self._state, self._about, beside)


def _kept_state(kept: StoredState, stored: Stored, state: State, beside: Tensors) -> State:
    if kept.version == stored.version:
        return state
    at = f"{_HISTORY}{kept.version}/"
    found = {name: beside.get(f"{at}{name}") for name in state}
    if any(tensor is None or tensor.shape != state[name].shape for name, tensor in found.items()):
        raise ValueError(f"version {kept.version} is missing in the file, or damaged")
    return {name: found[name].to(tensor) for name, tensor in state.items()}  # type: ignore[union-attr]


def _memory(fresh: Memory, stored: Tensors) -> Memory:
    if any(name not in stored or stored[name].shape != tensor.shape for name, tensor in fresh.items()):
        return fresh  # another guard's: it begins anew
    return {name: stored[name].to(tensor) for name, tensor in fresh.items()}
