"""Answer a group of requests with as few forwards as their states allow."""

import logging
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from tta_server.adapters import Adapter
from tta_server.adapters.stack import predict_stacked
from tta_server.drift.scores import Yardstick
from tta_server.models import EMPTY, Backbone, Output
from tta_server.models.reason import reason
from tta_server.runtime.job import Job, Piece, Scores
from tta_server.runtime.work.device import on_device, read
from tta_server.runtime.work.sharing import Sharing
from tta_server.streams.stream import Answering, Method, Stream
from tta_server.streams.window import Images

log = logging.getLogger(__name__)


class Answerer:
    """Run the forwards that answers need; changes no stream."""

    def __init__(
        self, backbone: Backbone, source: Adapter, sharing: Sharing, yardstick: Yardstick | None, rows: int
    ) -> None:
        """Prepare.

        Args:
            backbone: The network.
            source: The adapter that answers as the frozen model.
            sharing: Who shares a forward.
            yardstick: The source's, if drift is to be seen.
            rows: Most images of a forward that is for labels.
        """
        self._rows = rows
        self._yardstick = yardstick
        self._backbone = backbone
        self._source = source
        self.sharing = sharing

    def key(self, job: Job, answering: Answering) -> Hashable:
        """Return what is equal for requests that may share a forward."""
        return self.sharing.key(job, job.stream, answering)

    def groups(self, parts: Sequence[Piece]) -> list[list[Piece]]:
        """Split parts of requests into groups that share a forward, those that the source answers first."""
        together: dict[Hashable, list[Piece]] = {}
        known = {stream: stream.answering._replace(routed=False) for stream in {part.stream for part in parts}}
        for part in parts:
            key = self.sharing.key(part, part.stream.name, known[part.stream])
            together.setdefault(key, []).append(part)
        frozen = [group for group in together.values() if group[0].stream.answers_as_source]
        others = [group for group in together.values() if not group[0].stream.answers_as_source]
        return frozen + [some for group in others for some in self.sharing.fill(group, _size)]

    def answer(self, group: Sequence[Piece]) -> Scores:
        """Answer one of `groups`, in order of its parts; mode `inline` learns elsewhere."""
        first, streams = group[0].stream, _by_stream(group)
        if first.answers_as_source or first.serve == "source":  # of `inline`, what is only answered
            x = on_device((part.images for part in group), self._backbone.device)
            return read(self._source.predict(self._backbone, EMPTY, x), self._yardstick)
        adapter = first.method.adapter
        if len(streams) == 1:
            x = on_device((part.images for part in group), self._backbone.device)
            return read(adapter.predict(self._backbone, first.state, x))
        return self._stacked(adapter, group, streams)

    def frozen(self, batch: Images) -> Scores:
        """Return what the frozen model says of images (n, C, H, W)."""
        return self._frozen([batch])

    def learnt(self, stream: Stream, batch: Images) -> Scores:
        """Return what a stream's state says of images (n, C, H, W), whoever answers its requests."""
        x = on_device([batch], self._backbone.device)
        return read(stream.method.adapter.predict(self._backbone, stream.state, x))

    def source(self, images: Sequence[Images]) -> npt.NDArray[np.int64]:
        """Return the classes (n,) that the frozen model sees in n images, each (1, C, H, W)."""
        most = self._rows if self.sharing.apart else 1
        some = [images[start : start + most] for start in range(0, len(images), most)]
        return np.concatenate([self._frozen(batches).probabilities.argmax(1) for batches in some])

    def _frozen(self, batches: Sequence[Images]) -> Scores:
        return read(self._source.predict(self._backbone, EMPTY, on_device(batches, self._backbone.device)))

    def _stacked(self, adapter: Adapter, group: Sequence[Piece], streams: dict[str, list[Piece]]) -> Scores:
        states = {part.stream.name: part.stream.state for part in group}
        batches = [on_device((part.images for part in parts), self._backbone.device) for parts in streams.values()]
        most = max(len(batch) for batch in batches)
        # Images are independent here, so that repeating the last one changes no other.
        padded = [torch.cat([batch, batch[-1:].expand(most - len(batch), -1, -1, -1)]) for batch in batches]
        output = predict_stacked(adapter, self._backbone, [states[name] for name in streams], torch.stack(padded))
        rows = torch.cat([scores[: len(batch)] for scores, batch in zip(output.logits, batches, strict=True)])
        scores = read(Output(rows, rows))
        places = _places(streams)
        order = np.concatenate([places[part] for part in group])
        return scores.only(order)


def warm_up(learns: Backbone, answers: Backbone, method: Method, rows: int, window_rows: int) -> float:
    """Run one image and many through everything once, so that the first request finds it loaded.

    Args:
        learns: The network, as it learns.
        answers: The network, as it answers.
        method: How streams learn.
        rows: Most images of an answer.
        window_rows: Images of a step.

    Returns:
        How long the step took, in seconds.

    Raises:
        ValueError: If the network or the method fails on so many.
    """
    for subject, said in answers.findings.remarks.items():  # the network is tried now, not at the first request
        log.debug("network, %s: %s", subject, said)
    generator = torch.Generator().manual_seed(0)
    for count in (1, max(rows, 2)):
        x = torch.rand(count, *answers.spec.input_shape, generator=generator).to(answers.device)
        with _explained(f"the network cannot answer {count} images at once, see engine.max_rows"):
            if count == 1 or method.adapter.batch_coupled:
                read(answers.forward(x))
            if count > 1:
                read(method.adapter.predict(answers, method.initial, x))
    x = torch.rand(max(window_rows, 2), *answers.spec.input_shape, generator=generator).to(answers.device)
    began_s = time.monotonic()
    with _explained(f"adapter '{method.adapter.name}' cannot learn from {len(x)} images, see engine.window_rows"):
        read(method.adapter.adapt(learns, method.initial, x).output)
    return time.monotonic() - began_s


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a network and an adapter may be anybody's, and a device too small
        raise ValueError(f"{what}: {reason(error)}") from error


def _size(part: Piece) -> tuple[str, int]:
    return part.stream.name, part.rows


def _by_stream(group: Sequence[Piece]) -> dict[str, list[Piece]]:
    streams: dict[str, list[Piece]] = {}
    for part in group:
        streams.setdefault(part.stream.name, []).append(part)
    return streams


def _places(streams: dict[str, list[Piece]]) -> dict[Piece, npt.NDArray[np.int64]]:
    """Return where each part's rows are when the parts lie stream by stream."""
    places = {}
    start = 0
    for part in (part for parts in streams.values() for part in parts):
        places[part] = np.arange(start, start + part.rows)
        start += part.rows
    return places
