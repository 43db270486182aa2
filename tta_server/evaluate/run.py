"""Run adapters through protocols."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from tta_server.adapters import Adapter
from tta_server.evaluate.peak_memory import PeakMemory
from tta_server.evaluate.protocols import CLEAN_AFTER, CLEAN_BEFORE, Phase, requests
from tta_server.evaluate.reader import Reader
from tta_server.evaluate.results import SOURCE, Result
from tta_server.evaluate.session import Session, StoppedError
from tta_server.models import Backbone, Reference
from tta_server.settings import GuardSettings

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Bench:
    """What every adapter of an evaluation shares.

    Attributes:
        backbone: The frozen network.
        reference: Its bundle, if there is one.
        reader: Where images come from.
        batch: Images in a request and in a window to learn from.
        seed: Of whatever draws without a seed of its own.
        guard: What the guard lets pass; None takes over whatever an adapter makes.
        domains: Most kinds of input that a stream tells apart; 1 learns from everything in one state.
    """

    backbone: Backbone
    reference: Reference | None
    reader: Reader
    batch: int
    seed: int = 0
    guard: GuardSettings | None = None
    domains: int = 1

    def session(self, adapter: Adapter, inline: bool) -> Session:
        """Start a stream.

        Raises:
            StoppedError: If the adapter does not fit.
        """
        guard, domains = (None, 1) if adapter.name == SOURCE else (self.guard, self.domains)
        return Session(adapter, self.backbone, self.reference, self.batch, inline, guard, domains)


def run(
    bench: Bench, adapter: Adapter, label: str, protocol: str, phases: Sequence[Phase], progress: Advance
) -> Result:
    """Show all phases to one adapter, from the source model on.

    Args:
        bench: What adapters share.
        adapter: The method.
        label: Its name in tables.
        protocol: Name of the protocol; "single" sends images one by one.
        phases: What is shown.
        progress: Called with the number of images answered.

    Returns:
        The numbers, or why there are none.
    """
    torch.manual_seed(bench.seed)
    size = 1 if protocol.startswith("single") else bench.batch
    begun_s = time.perf_counter()
    memory = PeakMemory(bench.backbone.device)
    tally = _Tally()
    try:
        with memory:
            session = bench.session(adapter, inline=size > 1)
            for phase in phases:
                _show(bench.reader, session, phase, size, tally, progress)
    except StoppedError as error:
        return Result(protocol, label, error.status, str(error))
    errors = tally.errors()
    return Result(
        protocol,
        label,
        clean=errors.pop(CLEAN_BEFORE, None),
        clean_again=errors.pop(CLEAN_AFTER, None),
        errors=errors,
        steps=tally.steps,
        images=sum(map(len, phases)),
        peak_bytes=memory.bytes,
        elapsed_s=time.perf_counter() - begun_s,
        **_numbers(session),
    )


def _show(reader: Reader, session: Session, phase: Phase, size: int, tally: "_Tally", progress: Advance) -> None:
    if phase.reset:
        session.reset()
    wrong = np.zeros(len(phase), np.bool_)
    labels = reader.labels(phase)
    for part in requests(len(phase), size):
        wrong[part] = session.answer(reader.images(phase, part)) != labels[part]
        progress(part.stop - part.start)
    tally.add(phase, wrong)


def _numbers(session: Session) -> dict[str, Any]:
    offered = session.offered
    return {
        "selected": None if session.selected is None or not offered else session.selected / offered,
        "accepted": sum(session.accepted) / len(session.accepted) if session.accepted else None,
        "answer_ms": 1000 * median(session.answer_s),
        "learn_ms": 1000 * median(session.learn_s) if session.learn_s else None,
        "state_bytes": session.state_bytes,
    }


class _Tally:
    """Count misread images by column."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self._wrong: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()

    def add(self, phase: Phase, wrong: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> None:
        for index, (column, (name, severity)) in enumerate(phase.domains):
            missed, seen = int(wrong[phase.which == index].sum()), int((phase.which == index).sum())
            if seen:
                step = {"column": column, "condition": name, "severity": severity}
                self.steps.append({**step, "images": seen, "error": missed / seen})
                self._wrong[column] += missed
                self._seen[column] += seen

    def errors(self) -> dict[str, float]:
        return {column: self._wrong[column] / seen for column, seen in self._seen.items()}
