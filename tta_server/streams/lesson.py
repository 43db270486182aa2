"""A window on its way through a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tta_server.adapters import State
from tta_server.guard.verdict import Memory
from tta_server.streams.stream import Method, Stream
from tta_server.streams.window import Sample

BesideSteps = Literal["begin", "again"]
Purpose = Literal["learn", "look", "leave"] | BesideSteps
"""What is done about a window: a step is tried; the guard looks at what is answered to it, and the frozen model for the
sake of drift; nothing, for it has looked already. Or a domain that no step was taken in is begun with what waits in its
window, and goes on waiting. Or the guard looks at what is answered to images that no window takes."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """A window on its way through a step, and all that the step needs of its stream: values, as they are at the start.

    Attributes:
        stream: Whose it is.
        rows: Its images.
        x: The same as a tensor on the device (N, C, H, W).
        digest: Names the window in the audit log; empty where it is none.
        method: How the stream learns.
        state: What it answers with.
        base: What the step starts from.
        memory: What the guard remembers of it.
        purpose: What is done about the window.
    """

    stream: Stream
    rows: Sequence[Sample]
    x: Tensor
    digest: str
    method: Method
    state: State
    base: State
    memory: Memory
    purpose: Purpose = "learn"

    @property
    def taken(self) -> int:
        """Images that were taken from the stream's window, and are in no other."""
        return 0 if self.purpose in ("begin", "again") else len(self.rows)
