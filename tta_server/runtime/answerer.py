"""Answer a group of requests with as few forwards as their states allow."""

from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from tta_server.adapters import Adapter
from tta_server.adapters.stack import predict_stacked
from tta_server.models import EMPTY, Backbone, Output
from tta_server.runtime.device import on_device, read
from tta_server.runtime.sharing import Sharing
from tta_server.streams.stream import Answering, Method, Stream
from tta_server.streams.window import Images, Offered

Scores = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Probabilities (n, K) and entropies in nats (n,)."""


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        probabilities: (n, K) float32, each row sums to 1.
        entropy_nats: (n,) float32.
        stream: Name of the stream that answered.
        version: Version of its state when it answered.
        adapted: Whether a state that has learnt something answered, not the source.
    """

    probabilities: npt.NDArray[np.float32]
    entropy_nats: npt.NDArray[np.float32]
    stream: str
    version: int
    adapted: bool


@dataclass(frozen=True, eq=False)
class Job:
    """A request on its way through the engine.

    Attributes:
        stream: Name of its stream.
        offered: Its images.
        arrived_s: When it came, on a monotonic clock.
        client: Who sent it.
        request_id: What labels that come later call it; empty if nobody can.
        future: The answer to come.
    """

    stream: str
    offered: Offered
    arrived_s: float
    client: str = ""
    request_id: str = ""
    future: "Future[Answer]" = field(default_factory=Future)

    @property
    def images(self) -> Images:
        """(n, C, H, W)."""
        return self.offered.images

    @property
    def rows(self) -> int:
        """Images in the request."""
        return len(self.images)


Asked = tuple[Job, Stream]


class Answerer:
    """Run the forwards that answers need; changes no stream."""

    def __init__(self, backbone: Backbone, source: Adapter, sharing: Sharing) -> None:
        """Take the network, the adapter that answers as the frozen model, and who shares a forward."""
        self._backbone = backbone
        self._source = source
        self._sharing = sharing

    def key(self, job: Job, answering: Answering) -> Hashable:
        """Return what is equal for requests that may share a forward."""
        return self._sharing.key(job, job.stream, answering)

    def groups(self, asked: Sequence[Asked]) -> list[list[Asked]]:
        """Split requests into groups that share a forward, those that the source answers first."""
        together: dict[Hashable, list[Asked]] = {}
        for one in asked:
            together.setdefault(self.key(one[0], one[1].answering), []).append(one)
        frozen = [group for group in together.values() if group[0][1].answers_as_source]
        others = [group for group in together.values() if not group[0][1].answers_as_source]
        return frozen + [part for group in others for part in self._sharing.fill(group, _size)]

    def answer(self, group: Sequence[Asked]) -> Scores:
        """Answer one of `groups`, in order of its requests; mode `inline` learns elsewhere."""
        streams = _by_stream(group)
        if group[0][1].answers_as_source:
            x = on_device((job.images for job, _ in group), self._backbone.device)
            return read(self._source.predict(self._backbone, EMPTY, x))
        adapter = group[0][1].method.adapter
        if len(streams) == 1:
            x = on_device((job.images for job, _ in group), self._backbone.device)
            return read(adapter.predict(self._backbone, group[0][1].state, x))
        return self._stacked(adapter, group, streams)

    def source(self, batch: Images) -> npt.NDArray[np.int64]:
        """Return the classes (n,) that the frozen model sees in images (n, C, H, W)."""
        x = on_device([batch], self._backbone.device)
        classes: npt.NDArray[np.int64] = read(self._source.predict(self._backbone, EMPTY, x))[0].argmax(1)
        return classes

    def _stacked(self, adapter: Adapter, group: Sequence[Asked], streams: dict[str, list[Job]]) -> Scores:
        states = {stream.name: stream.state for _, stream in group}
        batches = [on_device((job.images for job in jobs), self._backbone.device) for jobs in streams.values()]
        most = max(len(batch) for batch in batches)
        # Images are independent here, so that repeating the last one changes no other.
        padded = [torch.cat([batch, batch[-1:].expand(most - len(batch), -1, -1, -1)]) for batch in batches]
        output = predict_stacked(adapter, self._backbone, [states[name] for name in streams], torch.stack(padded))
        rows = torch.cat([scores[: len(batch)] for scores, batch in zip(output.logits, batches, strict=True)])
        scores = read(Output(rows, rows))
        places = _places(streams)
        order = np.concatenate([places[job] for job, _ in group])
        return scores[0][order], scores[1][order]


def warm_up(backbone: Backbone, source: Adapter, method: Method, rows: int) -> None:
    """Run one image and `rows` images through everything once, so that the first request finds it loaded."""
    generator = torch.Generator().manual_seed(0)
    for count in {1, max(rows, 2)}:
        x = torch.rand(count, *backbone.spec.input_shape, generator=generator).to(backbone.device)
        read(source.predict(backbone, EMPTY, x))
        if count > 1:
            read(method.adapter.adapt(backbone, method.initial, x).output)
            read(method.adapter.predict(backbone, method.initial, x))


def _size(asked: Asked) -> tuple[str, int]:
    return asked[1].name, asked[0].rows


def _by_stream(group: Sequence[Asked]) -> dict[str, list[Job]]:
    streams: dict[str, list[Job]] = {}
    for job, stream in group:
        streams.setdefault(stream.name, []).append(job)
    return streams


def _places(streams: dict[str, list[Job]]) -> dict[Job, npt.NDArray[np.int64]]:
    """Return where each job's rows are when the jobs lie stream by stream."""
    places = {}
    start = 0
    for job in (job for jobs in streams.values() for job in jobs):
        places[job] = np.arange(start, start + job.rows)
        start += job.rows
    return places
