"""Who shares a forward: the one place that decides it, for the queue and for what was taken from it."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

from tta_server.models import Backbone
from tta_server.streams.stream import Answering

_LEAST_FILLING = 0.5

T = TypeVar("T")


class Sharing:
    """Decide which requests may share a forward, and which do."""

    def __init__(self, backbone: Backbone, stack_rows: int) -> None:
        """Take the network, and how many images of several streams may be in one forward; 0 stacks none."""
        self._backbone = backbone
        self._stack_rows = stack_rows

    @property
    def stack_rows(self) -> int:
        """Most images of several streams in one forward or step; 0 if the network mixes what shares one."""
        return self._stack_rows if self._backbone.findings.stacks else 0

    @property
    def apart(self) -> bool:
        """Whether rows of one forward may be of several requests."""
        return self._backbone.findings.apart

    def key(self, request: object, stream: str, answering: Answering) -> Hashable:
        """Return what is equal for requests that may share a forward.

        Those whose images must be told apart first share that look. Those that the source answers share one. Images of
        one stream share its state's. Streams whose adapter stacks may share one too. A request whose rows depend on one
        another has its own, and so has every request to a network that does not keep rows apart.

        Args:
            request: The request.
            stream: Name of its stream.
            answering: Who answers for the stream.
        """
        adapter = answering.method.adapter
        if not self.apart:
            return "alone", id(request)
        if answering.routed:
            return "routed"
        if answering.as_source:
            return "source"
        if answering.mode == "inline" or adapter.batch_coupled:
            return "alone", id(request)
        if self.stack_rows and adapter.stackable:
            return "stack", id(answering.method)
        return "stream", stream

    def fill(self, group: Sequence[T], size: Callable[[T], tuple[str, int]]) -> Iterator[list[T]]:
        """Split requests that may share a stacked forward into those that do.

        Streams that differ too much in size are not padded to the largest, and a stack is no larger than is allowed.

        Args:
            group: Requests with one key, in order.
            size: Returns the stream and the images of a request.
        """
        rows: dict[str, int] = {}
        for stream, count in map(size, group):
            rows[stream] = rows.get(stream, 0) + count
        left = sorted(rows, key=lambda name: rows[name])
        while left:
            part = [left.pop()]
            most = total = rows[part[0]]
            while left and self._fits(most, total + rows[left[-1]], len(part) + 1):
                total += rows[left[-1]]
                part.append(left.pop())
            yield [one for one in group if size(one)[0] in part]

    def _fits(self, most: int, total: int, streams: int) -> bool:
        padded = most * streams
        return total >= _LEAST_FILLING * padded and padded <= self.stack_rows
