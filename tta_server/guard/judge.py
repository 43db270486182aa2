"""The guard that is switched off, and what any guard must offer."""

from typing import Protocol

from torch import Tensor

from tta_server.adapters import State, Step
from tta_server.guard.ranges import unsound
from tta_server.guard.verdict import Admission, Finding, Memory, Serve, Verdict
from tta_server.models import EMPTY, Output


class Judge(Protocol):
    """Decides what a stream may learn, as a pure function of what it is given."""

    def start(self) -> Memory:
        """Return what is remembered of a fresh stream."""
        ...

    def admit(self, memory: Memory, x: Tensor, frozen: Output) -> Admission:
        """Decide whether the window `x` (N, C, H, W) may be learnt from; `frozen` is the source model's answer."""
        ...

    def weigh(self, memory: Memory, x: Tensor, frozen: Output, answered: Output) -> tuple[Memory, Serve]:
        """Say which model answers before the first step.

        Args:
            memory: Of the stream.
            x: All images (N, C, H, W) that wait to be learnt from.
            frozen: What the source model says of them.
            answered: What the stream answers to them.
        """
        ...

    def look(self, memory: Memory, x: Tensor, frozen: Output, answered: Output) -> Admission:
        """Say which model answers from now on, by images that are not learnt from.

        Args:
            memory: Of the stream.
            x: The images (N, C, H, W).
            frozen: What the source model says of them.
            answered: What the stream answers to them.
        """
        ...

    def judge(self, memory: Memory, old: State, step: Step, x: Tensor, frozen: Output, answered: Output) -> Verdict:
        """Decide what becomes of a step on the window `x`; `answered` is what the state before it answers."""
        ...

    def vet(self, state: State, initial: State, closely: bool = True) -> Finding | None:
        """Return why a state that no step of the stream made may not answer, or None if it may.

        Args:
            state: From a file; laid out as the adapter's states are.
            initial: The state that a stream starts from.
            closely: Whether all is judged that a step is; else only what is cheap, for a state that was judged when it
                was made.
        """
        ...


class Unguarded:
    """Take over whatever the adapter accepts."""

    def start(self) -> Memory:
        """Remember nothing."""
        return EMPTY

    def admit(self, memory: Memory, x: Tensor, frozen: Output) -> Admission:
        """Admit every window."""
        return Admission(True, "healthy", "the guard is off", memory)

    def weigh(self, memory: Memory, x: Tensor, frozen: Output, answered: Output) -> tuple[Memory, Serve]:
        """Have the stream answer."""
        return memory, "adapted"

    def look(self, memory: Memory, x: Tensor, frozen: Output, answered: Output) -> Admission:
        """Have the stream answer."""
        return Admission(False, "healthy", "the guard is off", memory)

    def judge(self, memory: Memory, old: State, step: Step, x: Tensor, frozen: Output, answered: Output) -> Verdict:
        """Commit what the adapter accepted."""
        if bool(step.scalars["accepted"]):
            return Verdict("commit", "healthy", "the guard is off", step.state, memory)
        return Verdict("reject", "nothing_selected", "the adapter selected nothing to learn from", old, memory)

    def vet(self, state: State, initial: State, closely: bool = True) -> Finding | None:
        """Refuse only what no state can be."""
        return unsound(state, initial)
