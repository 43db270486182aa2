"""What the guard says of a window, before and after a learning step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tta_server.adapters import State
from tta_server.models import Tensors
from tta_server.telemetry.closed_sets import Action, Cause

Memory = Tensors
"""What the guard remembers of one stream: a flat value like a state, never written in place, names `group/name`."""

Serve = Literal["adapted", "source"]


class Finding(NamedTuple):
    """What is wrong with a step or a state, in the order of a verdict's fields."""

    action: Action
    cause: Cause
    reason: str


@dataclass(frozen=True)
class Admission:
    """Whether a window may be learnt from.

    Attributes:
        learn: Whether it may.
        cause: Why, or why not, from a closed set.
        reason: The same in one sentence, with the numbers.
        memory: What the guard remembers from now on.
        serve: Which model answers from now on if nothing is learnt: the stream's state, or the frozen source.
    """

    learn: bool
    cause: Cause
    reason: str
    memory: Memory
    serve: Serve = "adapted"


@dataclass(frozen=True)
class Verdict:
    """What becomes of a step.

    Attributes:
        action: Take over `state`; drop it; go back to the newest version that passed; or start from the source again.
        cause: Why, from a closed set.
        reason: The same in one sentence, with the numbers.
        state: What to take over if the action is "commit": the step's state, or that drawn back into the trust region.
        memory: What the guard remembers from now on.
        serve: Which model answers from now on.
        passed: Whether `state` passed the complete check, so that a later rollback may go back to it.
        measures: Numbers that were looked at, by name.
    """

    action: Action
    cause: Cause
    reason: str
    state: State
    memory: Memory
    serve: Serve = "adapted"
    passed: bool = False
    measures: Mapping[str, float] = field(default_factory=dict)
