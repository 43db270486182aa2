"""Streams as files: what is written of a stream, and how it is put together again."""

import time
from collections import Counter
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import torch

from tta_server.adapters import Adapter, State
from tta_server.adapters.checkpoint import dump_state, load_beside, load_state, read_about
from tta_server.errors import BadRequest
from tta_server.guard.verdict import Memory, Serve
from tta_server.models import Backbone, Reference, Tensors
from tta_server.settings import AdapterSettings, Mode, make_adapter
from tta_server.storage.keeper import Keeper
from tta_server.streams.history import Kept
from tta_server.streams.stream import Stream, source_answers
from tta_server.streams.window import Sample

_GUARD, _WINDOW, _HISTORY = "guard/", "window/", "history/"
_PATIENCE_S = 5.0
_COUNTED = ("version", "steps", "images", "learnt", "serve", "restores", "frozen", "entropy_ratio", "confidence")


class Parked(NamedTuple):
    """What is known of a stream that is on disk only.

    Attributes:
        mode: Its mode.
        serve: Whether its own state or the source answers, as the guard wants it.
        adapter: Its own adapter; None if it has the server's.
        summary: What `GET /v1/streams` says of it.
    """

    mode: Mode
    serve: Serve
    adapter: AdapterSettings | None
    summary: dict[str, Any]

    @property
    def answers_as_source(self) -> bool:
        """Whether the frozen model answers its requests."""
        return source_answers(self.mode, self.serve)

    def in_mode(self, mode: Mode) -> "Parked":
        """Return the same in another mode; its file is as it was until the stream has come back."""
        told = {"mode": mode, "answers": "source" if source_answers(mode, self.serve) else "adapted"}
        return self._replace(mode=mode, summary=self.summary | told)


class Shelf:
    """Write streams and read them; files go through the keeper."""

    def __init__(self, keeper: Keeper, names: list[str], backbone: Backbone, reference: Reference | None) -> None:
        """Take what files are read and written with.

        Args:
            keeper: Reads and writes.
            names: The streams that are on disk already.
            backbone: The network that states belong to.
            reference: Its bundle, if there is one.
        """
        self._keeper = keeper
        self._names = names
        self._backbone = backbone
        self._reference = reference
        self._leaving_bytes = 0

    def parked(self, default: Adapter) -> dict[str, Parked]:
        """Return what is on disk already.

        Args:
            default: The adapter of streams without one of their own.

        Raises:
            ValueError: If a state belongs to other weights or another adapter, or has another layout.
        """
        found: dict[str, Parked] = {}
        for name in self._names:
            data = self._keeper.read(name)
            if data is not None:  # else only snapshots are left of it
                stream = read_about(data)["about"]
                own = AdapterSettings(**stream["adapter"]) if stream["adapter"] else None
                try:
                    load_state(make_adapter(own) if own else default, self._backbone, data, self._reference)
                except ValueError as error:
                    raise ValueError(
                        f"storage holds stream '{name}', which does not fit: {error}; serve what it was made with, or "
                        "set storage.url to another folder"
                    ) from error
                found[name] = Parked(stream["mode"], stream["serve"], own, stream["summary"])
        return found

    def save(self, stream: Stream) -> None:
        """Have a stream's state written soon; what waits in its window is not."""
        self._keeper.save(stream.name, stream.version, self._encoder(stream, whole=False))

    def park(self, stream: Stream) -> Parked:
        """Have a whole stream written soon, and return what to remember of it."""
        self._keeper.save(stream.name, stream.version, self._encoder(stream, whole=True))
        self._leaving_bytes += sum(stream.bytes.values())
        return Parked(stream.mode, stream.serve, stream.method.section, stream.summary())

    def drain(self, most_bytes: int) -> None:
        """Wait until parked streams are on disk if they may still take more memory than that.

        A disk that fails is not waited for: answers come first.
        """
        if self._leaving_bytes > most_bytes:
            if not self._keeper.trouble:
                self._keeper.flush(_PATIENCE_S)
            self._leaving_bytes = 0

    def fill(self, stream: Stream) -> None:
        """Give a fresh stream everything that was parked of it.

        Raises:
            ValueError: If the file does not fit its adapter.
        """
        data = self._keeper.read(stream.name)
        if data is None:
            raise ValueError(f"the file of stream '{stream.name}' is gone; delete the stream")
        about = read_about(data)["about"]
        beside = load_beside(data)
        stream.state = load_state(stream.method.adapter, self._backbone, data, self._reference)
        stream.memory = _memory(stream.memory, beside)
        stream.dropped = Counter(about["dropped"])
        for name in _COUNTED:
            setattr(stream, name, about[name])
        stream.verdicts.extend(about["verdicts"])
        if not stream.steps:
            stream.state = stream.method.initial
        for kept in about["history"]:
            state = self._kept_state(kept, stream, beside)
            stream.history.add(Kept(kept["version"], kept["steps"], state, kept["passed"]))
        stream.window.put_back(_rows(about["window"], beside), map(bytes.fromhex, about["recent"]))

    def snapshot(self, stream: Stream, note: str) -> "Future[str]":
        """Have a stream's state kept until it is erased; returns the snapshot's id to come."""
        return self._keeper.snapshot(stream.name, stream.version, self._encoder(stream, whole=False), note)

    def export(self, stream: Stream) -> bytes:
        """Return a stream's state as a file that `adopt` takes, here or on another server."""
        return self._encoder(stream, whole=False)()

    def adopt(self, stream: Stream, data: bytes) -> None:
        """Give the state in `data` to `stream`, under a new version.

        Raises:
            BadRequest: If it is no state file, belongs to other weights or another adapter, or is not finite.
        """
        try:
            state = load_state(stream.method.adapter, self._backbone, data, self._reference)
            steps = int(read_about(data)["about"].get("steps", 1))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadRequest(str(error)) from error
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            raise BadRequest("the state holds values that are not finite; export a sound one")
        stream.go_to(state, max(steps, 1))

    def erase(self, name: str) -> "Future[None]":
        """Have everything of a stream erased; returns when that is done, or the OSError."""
        return self._keeper.delete(name)

    def _kept_state(self, kept: dict[str, Any], stream: Stream, beside: Tensors) -> State:
        if kept["version"] == stream.version:
            return stream.state
        at = f"{_HISTORY}{kept['version']}/"
        return {name: beside[f"{at}{name}"].to(tensor.device) for name, tensor in stream.method.initial.items()}

    def _encoder(self, stream: Stream, whole: bool) -> "_Encoder":
        rows = list(stream.window) if whole else []
        history = [kept for kept in stream.history if whole or kept.version == stream.version]
        about: dict[str, Any] = {name: getattr(stream, name) for name in _COUNTED}
        section = stream.method.section
        about |= {
            "stream": stream.name,
            "mode": stream.mode,
            "adapter": section.model_dump(mode="json") if section else None,
            "history": [{"version": kept.version, "steps": kept.steps, "passed": kept.passed} for kept in history],
            "dropped": dict(stream.dropped),
            "verdicts": list(stream.verdicts),
            "summary": stream.summary(),
            "recent": [digest.hex() for digest in stream.window.recent] if whole else [],
            "window": [{"digest": row.digest.hex(), "client": row.client, "arrived_s": row.arrived_s} for row in rows],
        }
        older = {kept.version: kept.state for kept in history if kept.version != stream.version}
        return _Encoder(stream, self._backbone, about, rows, older)


class _Encoder:
    """Turn what a stream was into bytes, later and on another thread: everything in here is a value."""

    def __init__(
        self, stream: Stream, backbone: Backbone, about: dict[str, Any], rows: list[Sample], older: dict[int, State]
    ) -> None:
        self._adapter = stream.method.adapter
        self._state = stream.state
        self._memory = stream.memory
        self._backbone = backbone
        self._about = about
        self._rows = rows
        self._older = older

    def __call__(self) -> bytes:
        beside = {f"{_GUARD}{name}": tensor for name, tensor in self._memory.items()}
        beside |= {f"{_WINDOW}{i:06d}": torch.from_numpy(row.image) for i, row in enumerate(self._rows)}
        for version, state in self._older.items():
            beside |= {f"{_HISTORY}{version}/{name}": tensor for name, tensor in state.items()}
        return dump_state(self._adapter, self._backbone, self._state, self._about, beside)


def _memory(fresh: Memory, beside: Tensors) -> Memory:
    stored = {name: beside.get(f"{_GUARD}{name}") for name in fresh}
    if any(tensor is None or tensor.shape != fresh[name].shape for name, tensor in stored.items()):
        return fresh  # another guard's: it begins anew
    return {name: stored[name].to(tensor) for name, tensor in fresh.items()}  # type: ignore[union-attr]


def _rows(about: list[dict[str, Any]], beside: Tensors) -> list[Sample]:
    return [
        Sample(
            np.ascontiguousarray(beside[f"{_WINDOW}{i:06d}"].cpu().numpy()),
            bytes.fromhex(each["digest"]),
            each["client"],
            min(each["arrived_s"], time.monotonic()),  # another process's clock may be ahead
        )
        for i, each in enumerate(about)
    ]
