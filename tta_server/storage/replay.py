"""Rebuild a stream's state from its audit log and the windows that were kept.

Every step that can be is taken again and compared with the digest that the log has of its result. A replay that returns
has shown that the state is what the log says, and how it came about from the source; it tells which lines it could not
show, none of which the state comes from: those before a reset, say, whose windows are gone, or of a step that was lost.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from tta_server.adapters import Adapter, State, Step
from tta_server.adapters.checkpoint import state_digest
from tta_server.adapters.stack import adapt_stacked
from tta_server.models import Backbone, Reference
from tta_server.names import stream_of_domain
from tta_server.storage.audit import EVENTS, Entry, Event
from tta_server.storage.owners import VERSIONS_PER_GENERATION

_FETCHED: Final[tuple[Event, ...]] = ("rollback", "restore", "import")
_BACK: Final[tuple[Event, ...]] = ("load", *_FETCHED)
_AFRESH: Final[tuple[Event, ...]] = ("create", "reset", "delete")
_SOURCE = -1  # stands for the state that a stream starts from
_NOWHERE = -2  # stands for one that no line tells of


def _no_file(entry: Entry) -> State:
    raise ValueError(f"{_at(entry)} took over a state that no step in the log made; give the file it came from")


def _no_other(entry: Entry) -> "Recipe":
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
        fetch: Returns the state that a "rollback", "restore" or "import" took over, if no step in the log made it.
        remake: Returns how steps are taken from an entry with `extra.adapter` on; ValueError if that cannot be done.
        arrange: Returns the backbone in the memory format that an entry says, if it is not the one given.
    """

    adapter: Adapter
    backbone: Backbone
    reference: Reference | None
    window: Callable[[str], Tensor]
    project: Callable[[State, Step, Tensor], State] = _no_guard
    fetch: Callable[[Entry], State] = _no_file
    remake: Callable[[Entry], "Recipe"] = _no_other
    arrange: Callable[[str], Backbone] = _no_other_format

    def initial(self) -> State:
        """Return the state that a stream starts from."""
        return self.adapter.init(self.backbone, self.reference)


class Doubt(NamedTuple):
    """Why the state that a line tells of was not shown.

    Attributes:
        reason: What is missing, or what is not as the log says.
        wrong: Whether it was taken again and is another than the log says.
    """

    reason: str
    wrong: bool = False


class Proof(NamedTuple):
    """What a replay has shown.

    Attributes:
        state: The state, which came from the source by steps that were all taken again.
        shown: Lines whose digest is that of the state they tell of.
        doubts: Of each other line with a digest, why it was not shown; `state` comes from none of them.
        adapter: The adapter that the stream has in the end.
    """

    state: State
    shown: int
    doubts: list[Doubt]
    adapter: Adapter


class _Line(NamedTuple):
    """Which lines made the state before a line and the one after it; `before` is None if a file has what is after."""

    before: int | None
    after: int


def replay(entries: Iterable[Entry], lesson: Recipe, until: int | None = None, domains: Iterable[Entry] = ()) -> Proof:
    """Return the state of a stream after what `entries` tell, and what was shown of them.

    Args:
        entries: Those of one stream, oldest first.
        lesson: How steps are taken again, where the entries do not say.
        until: Version to stop at, None for the newest; of a version that was made twice, as after a crash, the later.
        domains: Those of the stream's domains. A stream's version counts what changes theirs, its state does not.

    Raises:
        ValueError: If the version is not there; or if of what the state came from, since the stream was at the source,
            a line, a window or a file is missing, or a state is not what the log says.
    """
    told = list(entries)
    if len({entry.stream for entry in told}) > 1:
        raise ValueError("the entries are of several streams; replay one at a time")
    counted = sum(max(0, entry.version_after - entry.version_before) for entry in _of_domains(domains, told))
    told = told if until is None else told[: _last(told, until) + 1]
    usual = lesson
    lines = _lines(told, state_digest(lesson.initial()), counted)
    initial: State | Doubt = lesson.initial()
    states = {_SOURCE: initial}
    uses = Counter(number for line in lines for number in line)
    shown, doubts = 0, list[Doubt]()
    for index, (entry, line) in enumerate(zip(told, lines, strict=True)):
        if "adapter" in entry.extra or entry.event == "delete":
            lesson, initial = (usual, usual.initial()) if entry.event == "delete" else _remade(usual, entry)
            states[_SOURCE] = initial
        elif line.after == _SOURCE and entry.state:
            states[_SOURCE] = initial
        if _NOWHERE in line and (not index or lines[index - 1].after != _NOWHERE):
            states[_NOWHERE] = Doubt(f"the log does not tell how version {entry.version_before} came about")
        if line.after == index:
            states[index] = _made(told, index, states[line.before] if line.before is not None else None, lesson)
        state = _checked(entry, states[line.after], known=lesson is not usual)
        states[line.after] = state
        if entry.state and isinstance(state, Doubt):
            doubts.append(state)
        shown += entry.state is not None and not isinstance(state, Doubt)
        uses.subtract(line)
        for number in {*line} - {lines[-1].after}:
            if number is not None and number >= 0 and not uses[number]:
                del states[number]
    newest = next((entry for entry in reversed(told) if entry.version_after != entry.version_before), None)
    if newest and newest.event == "begin":
        raise ValueError(
            f"{_at(newest)} has the statistics of a domain's first images, before any step; no log keeps those"
        )
    final = states[lines[-1].after] if lines else states[_SOURCE]
    if isinstance(final, Doubt):
        raise ValueError(final.reason)
    return Proof(final, shown, doubts, lesson.adapter)


def _of_domains(domains: Iterable[Entry], told: list[Entry]) -> list[Entry]:
    found = list(domains)
    stream = told[0].stream if told else ""
    other = next((entry.stream for entry in found if stream_of_domain(entry.stream) != stream), None)
    if told and other is not None:
        raise ValueError(f"expected lines of domains of '{stream}', got one of '{other}'")
    return found


def _lines(told: list[Entry], initial: str, counted: int) -> list[_Line]:
    """Return of each entry which others made the states before and after it.

    Args:
        told: The entries of the stream.
        initial: Digest of the state that it starts from.
        counted: By how many its version may have grown for what changed its domains.
    """
    lines: list[_Line] = []
    by_version, by_digest, version = dict[int, int](), {initial: _SOURCE}, 0
    for index, entry in enumerate(told):
        before: int | None = by_version.get(entry.version_before, _NOWHERE)
        if before == _NOWHERE and version < entry.version_before <= version + counted:
            before = lines[-1].after if lines else _SOURCE
        elif before == _NOWHERE and entry.version_before % VERSIONS_PER_GENERATION == 0:
            # With so high a version an owner begins. One who loaded a stream, and of older servers' only the place of
            # the line says from what, has told so; else it was not there.
            loaded = lines[-1].after if lines else _NOWHERE
            before = loaded if entry.event == "load" else _SOURCE
        after = before
        if entry.event == "delete":
            by_version.clear()
        if entry.event in _AFRESH or entry.extra.get("to_steps") == 0 or (entry.event == "settings" and entry.state):
            after = _SOURCE
        elif (entry.event in _BACK or entry.event not in EVENTS) and entry.state:
            after = by_digest.get(entry.state, index if entry.event in _FETCHED else _NOWHERE)
            before = None if after == index else after
        elif entry.event == "commit":
            after = index
        version = entry.version_after
        lines.append(_Line(before, _NOWHERE if after is None else after))
        by_version[version] = lines[-1].after
        if entry.state and after == index:
            by_digest[entry.state] = index
    return lines


def _remade(usual: Recipe, entry: Entry) -> tuple[Recipe, State | Doubt]:
    """Return how steps are taken from an entry on, and what a stream then starts from."""
    try:
        lesson = usual.remake(entry)
        return lesson, lesson.initial()
    except ValueError as error:
        return usual, Doubt(str(error))


def _made(told: list[Entry], index: int, start: State | Doubt | None, lesson: Recipe) -> State | Doubt:
    """Return the state that an entry made, from the one before it or from a file; or why that cannot be done."""
    entry = told[index]
    try:
        if start is None:
            return lesson.fetch(entry)
        if isinstance(start, Doubt):
            return start
        try:
            x = lesson.window(entry.batch or "")
        except ValueError as error:
            raise ValueError(f"{_at(entry)}: {_gone(told, index) or error}") from error
        step = _step(entry, start, x, lesson)
        return lesson.project(start, step, x) if entry.extra.get("projected") else step.state
    except ValueError as error:
        return Doubt(str(error))


def _gone(told: list[Entry], index: int) -> str:
    """Return what later lines say of why the window of an entry is not there; empty if they do not."""
    entry = told[index]
    for later in told[index + 1 :]:
        if later.event == "delete":
            return f"its window {entry.batch} was erased with the stream at {later.time}"
        if later.event == "load" and later.extra.get("from", entry.version_after) < entry.version_after:
            return f"its window {entry.batch} was lost as the step was: at {later.time} an earlier state was loaded"
    return ""


def _checked(entry: Entry, state: State | Doubt, known: bool) -> State | Doubt:
    """Return a state if it is what an entry says; `known` says whether the log tells how it was learnt."""
    if isinstance(state, Doubt) or not entry.state or (digest := state_digest(state)) == entry.state:
        return state
    hint = "; the log does not tell with which adapter, settings and statistics, they may have been others than now"
    told = f"{_at(entry)} gives state {digest[:12]}, but the log says {entry.state[:12]}"
    return Doubt(told + ("" if known else hint), wrong=True)


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
