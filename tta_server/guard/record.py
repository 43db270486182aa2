"""What the guard remembers of a stream, as a value: from a flat dictionary of tensors and back."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from tta_server.guard import risk
from tta_server.guard.verdict import Memory

_PREFIX = "guard/"


@dataclass(frozen=True, eq=False)
class Record:
    """The guard's memory of one stream; all on the CPU.

    Attributes:
        source: Whether the frozen model answers because the adapted one is lost more often.
        excess: Smoothed difference of the shares of images on which the adapted and the frozen model are lost.
        trend: The same, smoothed over more windows.
        gain: Smoothed difference of their estimated accuracies.
        compared: How much excess and gain have gathered, in [0, 1].
        trended: How much the trend has gathered, in [0, 1].
        evidence: Of the risk monitor.
        adapted_shares: Smoothed mean prediction of the adapted model (K,).
        frozen_shares: Of the frozen model (K,).
        answered: How much these two have gathered, in [0, 1].
        steps: Steps committed since the stream was last taken back.
        since_check: Steps judged since the last complete check.
        path: How far the parameters have moved since then, step by step.
        failures: Restores since the last complete check that found the stream good.
    """

    source: bool
    excess: float
    trend: float
    gain: float
    compared: float
    trended: float
    evidence: Tensor
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
            excess=0.0,
            trend=0.0,
            gain=0.0,
            compared=0.0,
            trended=0.0,
            evidence=risk.fresh(),
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


def smooth(old: float, new: float, weight: float, share: float) -> float:
    """Return a moving mean that starts from its first value, not from 0.

    Args:
        old: The mean so far.
        new: What is added.
        weight: How much the mean has gathered, in [0, 1]; 0 before the first value.
        share: Of a new value once enough is gathered, in (0, 1].
    """
    return old + (new - old) * share / gather(weight, share)


def gather(weight: float, share: float) -> float:
    """Return how much a moving mean has gathered after one more value."""
    return weight + (1 - weight) * share


def _tensor(value: bool | float | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    kind = torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else torch.float64
    return torch.tensor(value, dtype=kind)
