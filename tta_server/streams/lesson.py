"""A window on its way through a step, and who is told what becomes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from tta_server.adapters import Step
from tta_server.guard.verdict import Admission, Verdict
from tta_server.storage.audit import Event
from tta_server.streams.stream import Stream
from tta_server.streams.window import Sample


@dataclass(frozen=True, eq=False)
class Lesson:
    """A window on its way through a step.

    Attributes:
        stream: Whose it is.
        rows: Its images.
        x: The same as a tensor on the device (N, C, H, W).
        digest: Names the window in the audit log.
    """

    stream: Stream
    rows: Sequence[Sample]
    x: Tensor
    digest: str


class Chronicle(Protocol):
    """Is told what happens to streams, after it has happened."""

    def judged(self, lesson: Lesson, step: Step, verdict: Verdict, before: int, stack: tuple[int, int] | None) -> None:
        """Hear of a verdict that was carried out.

        Args:
            lesson: The window.
            step: What the adapter made of it.
            verdict: What the guard said.
            before: The stream's version before.
            stack: Slot and size of the stack that the step was part of.
        """
        ...

    def skipped(self, lesson: Lesson, admission: Admission) -> None:
        """Hear that a window was not learnt from."""
        ...

    def failed(self, stream: Stream, error: Exception) -> None:
        """Hear that a step raised an error."""
        ...

    def handed_over(self, stream: Stream) -> None:
        """Hear that another model answers from now on, the stream's or the source."""
        ...

    def changed(
        self,
        stream: Stream,
        event: Event,
        before: int,
        cause: str,
        reason: str,
        who: str = "engine",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Hear of a change that no window caused."""
        ...
