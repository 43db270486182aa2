"""A window on its way through a step."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

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
