"""What the device thread does with a group of requests: answer, then learn. No threads in here."""

import logging
import time
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import adapters
from adapters import Adapter
from adapters.base import check
from adapters.losses import entropy
from models import Backbone, Output, Reference
from tta_server.errors import BadRequest, NotFound, Overloaded, TTAError
from tta_server.runtime.stream import Rows, Stream
from tta_server.settings import Mode
from tta_server.settings import Streams as StreamsSettings
from tta_server.telemetry.metrics import Action, Metrics

log = logging.getLogger(__name__)

_MAX_WAITING_WINDOWS = 4


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        probabilities: (n, K) float32, each row sums to 1.
        entropy_nats: (n,) float32.
        stream: Name of the stream that answered.
        version: Version of its state that answered.
        adapted: Whether that state has learnt anything.
    """

    probabilities: npt.NDArray[np.float32]
    entropy_nats: npt.NDArray[np.float32]
    stream: str
    version: int
    adapted: bool


@dataclass(frozen=True)
class Job:
    """A request on its way through the engine."""

    stream: str
    images: Rows
    arrived_s: float
    future: "Future[Answer]" = field(default_factory=Future)

    @property
    def rows(self) -> int:
        """Images in the request."""
        return len(self.images)


class Worker:
    """Own the backbone and every stream; one thread at a time may call it."""

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        window_rows: int,
        streams: StreamsSettings,
        metrics: Metrics,
        reference: Reference | None = None,
    ) -> None:
        """Check that the adapter fits the backbone and the reference bundle.

        Raises:
            ValueError: If it does not.
        """
        check(adapter, backbone, reference)
        self._backbone = backbone
        self._adapter = adapter
        self._frozen = adapters.create("source")
        self._initial = adapter.init(backbone, reference)  # shared by all streams until they learn: a state is a value
        self._window_rows = window_rows
        self._settings = streams
        self._metrics = metrics
        self._streams: dict[str, Stream] = {}
        self._due: deque[Stream] = deque()

    def warm_up(self, rows: int) -> None:
        """Run one image and `rows` images through everything once, so that the first request finds it loaded."""
        generator = torch.Generator().manual_seed(0)
        for count in {1, max(rows, 2)}:
            x = torch.rand(count, *self._backbone.spec.input_shape, generator=generator).to(self._backbone.device)
            _read(self._frozen, self._frozen.predict(self._backbone, {}, x))
            if count > 1:
                _read(self._adapter, self._adapter.adapt(self._backbone, self._initial, x).output)
                _read(self._adapter, self._adapter.predict(self._backbone, self._initial, x))

    def group(self, job: Job) -> Hashable:
        """Return a key that is equal for jobs that may share a forward: same state, independent rows."""
        mode = self._mode(job.stream)
        if mode == "off":
            return "off"
        if mode == "inline" or self._adapter.batch_coupled:
            return "alone", id(job)
        return "stream", job.stream

    def answer(self, jobs: Sequence[Job]) -> None:
        """Answer jobs of one group with one forward, and put their images into the windows of their streams."""
        started_s = time.monotonic()
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel() and self._open(job)]
        if not jobs:
            return
        for job in jobs:
            self._metrics.stage("queue", started_s - job.arrived_s)
        streams = [self._streams[job.stream] for job in jobs]  # frozen ones share a forward
        states = [(stream.version, stream.steps > 0 and stream.mode != "off") for stream in streams]
        try:
            probabilities, entropies = self._forward(streams[0], self._images(job.images for job in jobs))
        except Exception as error:
            log.exception("a forward over %d images failed", sum(job.rows for job in jobs))
            wrong = (
                BadRequest(str(error)) if isinstance(error, ValueError) else TTAError("the model failed; see the log")
            )
            for job in jobs:
                job.future.set_exception(wrong)
            return
        self._metrics.batch(len(probabilities))
        self._metrics.stage("forward", time.monotonic() - started_s)
        end = 0
        for job, (version, adapted) in zip(jobs, states, strict=True):
            start, end = end, end + job.rows
            self._reply(job, Answer(probabilities[start:end], entropies[start:end], job.stream, version, adapted))

    @property
    def has_window(self) -> bool:
        """Whether `learn` has something to do."""
        return bool(self._due)

    def learn(self, overloaded: bool) -> None:
        """Learn from one full window, or drop it if the server is overloaded; the stream that waits longest is next."""
        stream = self._due.popleft()
        if stream.window_rows >= self._window_rows:  # else it was reset meanwhile
            window = stream.take_window(self._window_rows)
            if overloaded:
                self._drop(stream, window)
            else:
                self._learn(stream, window)
        if stream.window_rows >= self._window_rows:
            self._due.append(stream)

    def streams(self) -> list[dict[str, Any]]:
        """Return summaries of all streams, in order of creation."""
        return [stream.summary() for stream in self._streams.values()]

    def stream(self, name: str) -> dict[str, Any]:
        """Return the summary of one stream.

        Raises:
            NotFound: If there is none.
        """
        return self._existing(name).summary()

    def reset(self, name: str) -> dict[str, Any]:
        """Put a stream back to the source model and return its summary.

        Raises:
            NotFound: If there is none.
        """
        stream = self._existing(name)
        stream.reset(self._initial)
        self._metrics.reset(name, stream.version)
        return stream.summary()

    def damage(self) -> str:
        """Return what is wrong with the shared weights, or an empty string."""
        if self._backbone.digest() == self._backbone.spec.digest:
            return ""
        return "the model's weights were damaged in memory; restart the server"

    def _forward(self, stream: Stream, x: torch.Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        if stream.mode == "off":
            return _read(self._frozen, self._frozen.predict(self._backbone, {}, x))
        if stream.mode == "inline" and len(x) > 1:
            self._metrics.offered(stream.name, len(x))
            try:
                output = self._step(stream, x)
            except Exception:
                stream.dropped += len(x)
                self._metrics.step(stream.name, "failed", stream.version)
                raise
            return _read(self._adapter, output)
        return _read(self._adapter, self._adapter.predict(self._backbone, stream.state, x))

    def _reply(self, job: Job, answer: Answer) -> None:
        if not np.isfinite(answer.probabilities).all():
            job.future.set_exception(TTAError("the model's answer to these images is not finite; nothing was learnt"))
            return
        job.future.set_result(answer)
        stream = self._streams[job.stream]
        ratio = answer.entropy_nats.mean() / np.log(answer.probabilities.shape[1])
        stream.observe(float(ratio), float(answer.probabilities.max(1).mean()), job.rows)
        self._metrics.answered(stream.name, job.rows, stream.entropy_ratio or 0.0, stream.confidence or 0.0)
        if stream.mode == "after":
            self._offer(stream, job.images)

    def _offer(self, stream: Stream, images: Rows) -> None:
        stream.offer(images)
        self._metrics.offered(stream.name, len(images))
        while stream.window_rows > _MAX_WAITING_WINDOWS * max(self._window_rows, len(images)):
            self._drop(stream, stream.take_window(self._window_rows))
        if stream.window_rows >= self._window_rows and stream not in self._due:
            self._due.append(stream)

    def _learn(self, stream: Stream, window: list[Rows]) -> None:
        try:
            self._step(stream, self._images(window))
        except Exception:
            log.exception("a step of stream '%s' failed; its state is as before", stream.name)
            self._drop(stream, window, "failed")

    def _step(self, stream: Stream, x: torch.Tensor) -> Output:
        """Learn from `x` and commit, or leave the stream as it was."""
        started_s = time.monotonic()
        step = self._adapter.adapt(self._backbone, stream.state, x)
        accepted = bool(step.scalars["accepted"])
        if accepted:
            stream.commit(step.state, len(x))
        else:
            stream.dropped += len(x)
        self._metrics.step(stream.name, "updated" if accepted else "rejected", stream.version)
        # Press et al., NeurIPS 2023, arXiv:2306.05401: on long streams a plain periodic reset beats most methods.
        if accepted and stream.steps == self._settings.reset_every:
            stream.restart(self._initial)
            self._metrics.reset(stream.name, stream.version)
        self._metrics.stage("adapt", time.monotonic() - started_s)
        return step.output

    def _drop(self, stream: Stream, window: list[Rows], action: Action = "dropped") -> None:
        stream.dropped += sum(map(len, window))
        self._metrics.step(stream.name, action, stream.version)

    def _images(self, parts: Iterable[Rows]) -> torch.Tensor:
        """Return images as floats in [0, 1] on the device; bytes travel as bytes."""
        tensors = [torch.from_numpy(part) for part in parts]
        if len({tensor.dtype for tensor in tensors}) > 1:
            tensors = [_floats(tensor) for tensor in tensors]
        return _floats(torch.cat(tensors).to(self._backbone.device))

    def _mode(self, name: str) -> Mode:
        if name in self._streams:
            return self._streams[name].mode
        named = self._settings.named.get(name)
        return named.mode if named else self._settings.mode

    def _open(self, job: Job) -> bool:
        """Create the job's stream if it is new; without room the job fails."""
        name = job.stream
        if name in self._streams:
            return True
        if len(self._streams) >= self._settings.max_streams:
            full = f"stream '{name}' is new and this server holds its {len(self._streams)} streams already"
            job.future.set_exception(Overloaded(full))
            return False
        self._streams[name] = Stream(name, self._mode(name), self._initial)
        self._metrics.open_stream(name)
        self._metrics.streams(len(self._streams))
        return True

    def _existing(self, name: str) -> Stream:
        if name not in self._streams:
            raise NotFound(f"unknown stream '{name}'; a stream exists from its first answered request")
        return self._streams[name]


def _read(adapter: Adapter, output: Output) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Bring probabilities (n, K) and entropies (n,) to the host in one copy."""
    scores = output.logits.float()
    if adapter.output_kind == "logits":
        both = torch.cat([scores.softmax(1), entropy(scores)[:, None]], 1)
    else:
        both = torch.cat([scores, torch.special.entr(scores).sum(1, keepdim=True)], 1)
    host = both.cpu().numpy()
    return host[:, :-1], host[:, -1]


def _floats(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images
