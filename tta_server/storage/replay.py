"""Rebuild a stream's state from its audit log and the windows that were kept.

Every step is taken again and compared with the digest that the log has of its result, so a replay that returns has
shown that the state is what the log says, and how it came about.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from tta_server.adapters import Adapter, State, Step
from tta_server.adapters.checkpoint import state_digest
from tta_server.adapters.stack import adapt_stacked
from tta_server.models import Backbone, Reference
from tta_server.storage.audit import Entry, Event

_BACK: Final[tuple[Event, ...]] = ("load", "rollback", "restore", "import")
_AFRESH: Final[tuple[Event, ...]] = ("create", "reset", "delete")
_SOURCE = -1  # stands for the state that a stream starts from


def _no_file(entry: Entry) -> State:
    raise ValueError(f"{_at(entry)} took over a state that no step in the log made; give the file it came from")


def _no_other(entry: Entry) -> Adapter:
    raise ValueError(f"{_at(entry)} has another adapter; give what makes it")


def _no_other_format(memory_format: str) -> Backbone:
    raise ValueError(f"steps in the log were taken in memory format '{memory_format}'; give such a backbone")


def _no_guard(state: State, step: Step, x: Tensor) -> State:
    raise ValueError("the guard changed a step's state; give the guard's projection to replay it")


@dataclass(frozen=True)
class Recipe:
    """How steps are taken again.

    Attributes:
        adapter: The adapter, with the settings it had.
        backbone: The backbone.
        reference: Its bundle, where the adapter's states start from one.
        window: Returns the window of a digest as floats (N, C, H, W) on the device; ValueError if it was not kept.
        project: Returns what the guard made of a step: called with the state before, the step and the window, for
            entries with `extra.projected`.
        fetch: Returns the state that a "load", "restore" or "import" took over, if no step in the log made it.
        remake: Returns the adapter that an entry with `extra.adapter` gave the stream.
        arrange: Returns the backbone in the memory format that an entry says, if it is not the one given.
    """

    adapter: Adapter
    backbone: Backbone
    reference: Reference | None
    window: Callable[[str], Tensor]
    project: Callable[[State, Step, Tensor], State] = _no_guard
    fetch: Callable[[Entry], State] = _no_file
    remake: Callable[[Entry], Adapter] = _no_other
    arrange: Callable[[str], Backbone] = _no_other_format

    def initial(self) -> State:
        """Return the state that a stream starts from."""
        return self.adapter.init(self.backbone, self.reference)


def replay(entries: Iterable[Entry], lesson: Recipe, until: int | None = None, domains: Iterable[Entry] = ()) -> State:
    """Return the state of a stream after what `entries` tell.

    Args:
        entries: Those of one stream, oldest first, from its creation, a reset or an import on.
        lesson: How steps are taken again.
        until: Version to stop at, None for the newest; of a version that was made twice, as after a crash, the later.
        domains: Those of the stream's domains. A stream's version counts what changes theirs, its state does not.

    Raises:
        ValueError: If a window or file is missing, the version is not there, or a state is not what the log says.
    """
    told = list(entries)
    if len({entry.stream for entry in told}) > 1:
        raise ValueError("the entries are of several streams; replay one at a time")
    counted = sum(max(0, entry.version_after - entry.version_before) for entry in _of_domains(domains, told))
    told = told if until is None else told[: _last(told, until) + 1]
    usual, state = lesson, lesson.initial()
    origins = _origins(told, state_digest(state), counted)
    kept = {_SOURCE: state}
    for index, entry in enumerate(told):
        if "adapter" in entry.extra or entry.event == "delete":
            lesson = usual if entry.event == "delete" else replace(lesson, adapter=lesson.remake(entry))
            kept[_SOURCE] = lesson.initial()
        state = _after(entry, kept[origins[index]] if index in origins else state, index in origins, lesson)
        digest = state_digest(state) if entry.state else None
        if digest != entry.state:
            raise ValueError(f"{_at(entry)} gives state {str(digest)[:12]}, but the log says {str(entry.state)[:12]}")
        if index in origins.values():
            kept[index] = state
    return state


def _of_domains(domains: Iterable[Entry], told: list[Entry]) -> list[Entry]:
    found = list(domains)
    stream = told[0].stream if told else ""
    other = next((entry.stream for entry in found if entry.stream.partition("@")[0] != stream), None)
    if told and other is not None:
        raise ValueError(f"expected lines of domains of '{stream}', got one of '{other}'")
    return found


def _origins(told: list[Entry], initial: str, counted: int) -> dict[int, int]:
    """Return, for each entry that does not start from the state before it, the entry whose state it starts from.

    Args:
        told: The entries of the stream.
        initial: Digest of the state that it starts from.
        counted: By how many its version may have grown for what changed its domains.
    """
    origins: dict[int, int] = {}
    by_version, by_digest, version = {0: _SOURCE}, {initial: _SOURCE}, 0
    for index, entry in enumerate(told):
        if entry.event in _AFRESH:
            origins[index] = _SOURCE
        elif entry.event in _BACK and entry.state:
            if entry.state in by_digest:
                origins[index] = by_digest[entry.state]
        elif entry.version_before in by_version:
            if entry.version_before != version:  # the process died, and its successor found an earlier state on disk
                origins[index] = by_version[entry.version_before]
        elif not version < entry.version_before <= version + counted:
            raise ValueError(f"the log does not tell how version {entry.version_before} came about")
        version = entry.version_after
        by_version[version] = index
        if entry.state:
            by_digest[entry.state] = index
    return origins


def _after(entry: Entry, state: State, is_there: bool, lesson: Recipe) -> State:
    """Return the state after an entry, from the one it starts from."""
    if entry.event in _BACK and entry.state:
        return state if is_there else lesson.fetch(entry)
    if entry.event == "settings" and entry.state:
        return lesson.initial()
    if entry.event == "commit":
        x = lesson.window(entry.batch or "")
        step = _step(entry, state, x, lesson)
        return lesson.project(state, step, x) if entry.extra.get("projected") else step.state
    return state


def _step(entry: Entry, state: State, x: Tensor, lesson: Recipe) -> Step:
    stack, backbone = entry.extra.get("stack"), lesson.backbone
    memory_format = entry.extra.get("memory_format", "contiguous")
    if memory_format != backbone.spec.memory_format:
        backbone = lesson.arrange(memory_format)
        if (other := backbone.spec.memory_format) != memory_format:
            raise ValueError(f"{_at(entry)} was made in memory format '{memory_format}', but the network is '{other}'")
    if not stack:
        return lesson.adapter.adapt(backbone, state, x)
    slot, size = map(int, stack)  # what fills the other slots does not matter, how many there are does
    steps: list[Step] = adapt_stacked(lesson.adapter, backbone, [state] * size, torch.stack([x] * size))
    return steps[slot]


def _last(told: list[Entry], version: int) -> int:
    """Return the index of the last entry that made a version."""
    found = [i for i, entry in enumerate(told) if entry.version_after == version and entry.state]
    if not found and version == 0:
        return -1
    if not found:
        raise ValueError(f"the log has no version {version} of the stream")
    return found[-1]


def _at(entry: Entry) -> str:
    return f"version {entry.version_after} of stream '{entry.stream}'"
