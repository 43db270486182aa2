"""What the guard remembers of a stream, as a value: from a flat dictionary of tensors and back."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from tta_server.guard.verdict import Memory

_PREFIX = "guard/"


@dataclass(frozen=True, eq=False)
class Record:
    """The guard's memory of one stream; all on the CPU.

    Attributes:
        source: Whether the frozen model answers because the stream is worse.
        stream_score: Recent images on which both differ and the stream's answer is credible.
        frozen_score: Those on which the frozen model's is.
        differed: All on which both differ.
        scored: How many recent images the three are of.
        adapted_shares: Smoothed mean prediction of the adapted model (K,).
        frozen_shares: Of the frozen model (K,).
        answered: How much these two have gathered, in [0, 1].
        steps: Steps committed since the stream was last taken back.
        since_check: Steps judged since the last complete check.
        path: How far the parameters have moved since then, step by step.
        failures: Restores since the last complete check that found the stream good.
    """

    source: bool
    stream_score: float
    frozen_score: float
    differed: float
    scored: float
    adapted_shares: Tensor
    frozen_shares: Tensor
    answered: float
    steps: int
    since_check: int
    path: float
    failures: int

    @classmethod
    def fresh(cls, classes: int) -> "Record":
        """Return the record of a stream that has seen nothing."""
        nothing = torch.zeros(classes, dtype=torch.float64)
        return cls(
            source=False,
            stream_score=0.0,
            frozen_score=0.0,
            differed=0.0,
            scored=0.0,
            adapted_shares=nothing,
            frozen_shares=nothing,
            answered=0.0,
            steps=0,
            since_check=0,
            path=0.0,
            failures=0,
        )

    @classmethod
    def of(cls, memory: Memory) -> "Record":
        """Read a memory."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            tensor = memory[_PREFIX + field.name]
            values[field.name] = tensor if tensor.dim() else tensor.item()
        return cls(**values)

    def memory(self) -> Memory:
        """Return it as a memory."""
        return {_PREFIX + field.name: _tensor(getattr(self, field.name)) for field in fields(self)}

    def restored(self) -> "Record":
        """Return the record of a stream that is taken back: it is compared anew."""
        return Record.fresh(len(self.adapted_shares)).but(failures=self.failures + 1)

    def but(self, **changes: Any) -> "Record":  # noqa: ANN401
        """Return the record with some fields changed."""
        return replace(self, **changes)


def estimated_gain(memory: Memory) -> float | None:
    """Return the recent images on which only the stream is credible, less those on which only the frozen model is.

    Returns:
        As a share of all recent images; None if the guard that remembers this has compared none.
    """
    read = [memory.get(_PREFIX + name) for name in ("stream_score", "frozen_score", "scored")]
    if any(each is None or each.numel() != 1 or not each.isfinite() for each in read):
        return None
    won, lost, scored = (float(each) for each in read if each is not None)
    return (won - lost) / scored if scored > 0 else None


def _tensor(value: bool | float | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    kind = torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else torch.float64
    return torch.tensor(value, dtype=kind)
