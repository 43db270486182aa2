"""What the device thread does: answer groups of requests, learn from windows, run commands. No threads in here."""

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from tta_server.adapters import Adapter
from tta_server.errors import BadRequest, TTAError
from tta_server.guard.verdict import Serve
from tta_server.models import Backbone
from tta_server.runtime.answerer import Answer, Answerer, Asked, Job, Scores, warm_up
from tta_server.runtime.device import read
from tta_server.runtime.learner import Learner
from tta_server.streams.ledger import Ledger
from tta_server.streams.methods import Methods
from tta_server.streams.registry import Registry
from tta_server.streams.schedule import Pace, Schedule
from tta_server.streams.stream import Stream
from tta_server.streams.window import Sample, as_samples
from tta_server.telemetry.closed_sets import DropReason
from tta_server.telemetry.metrics import Metrics

__all__ = ["Answer", "Job", "Worker"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a worker is made of; `assemble` makes them.

    Attributes:
        backbone: The network.
        source: The adapter that answers as the frozen model.
        methods: How streams learn.
        registry: The streams.
        answerer: Runs forwards.
        learner: Takes steps.
        ledger: Remembers answers until labels come.
        pace: When windows are learnt from.
        stack_rows: Most images of several streams in one step.
        metrics: Where to report.
    """

    backbone: Backbone
    source: Adapter
    methods: Methods
    registry: Registry
    answerer: Answerer
    learner: Learner
    ledger: Ledger
    pace: Pace
    stack_rows: int
    metrics: Metrics


class Worker:
    """Own the backbone and every stream; one thread at a time may call it."""

    def __init__(self, parts: Parts) -> None:
        """Take everything over."""
        self.parts = parts
        self._schedule = Schedule()
        self._metrics = parts.metrics

    def warm_up(self, rows: int) -> None:
        """Run one image and `rows` images through everything once, so that the first request finds it loaded."""
        warm_up(self.parts.backbone, self.parts.source, self.parts.methods.default, rows)

    def group(self, job: Job) -> Hashable:
        """Return a key that is equal for jobs that may share a forward."""
        mode, as_source, method = self.parts.registry.peek(job.stream)
        if as_source:
            return "source"
        if mode == "inline" or method.adapter.batch_coupled:
            return "alone", id(job)
        if self.parts.stack_rows and method.adapter.stackable:
            return "stack", id(method)
        return "stream", job.stream

    def answer(self, jobs: Sequence[Job]) -> None:
        """Answer jobs, and put their images into the windows of their streams."""
        now_s = time.monotonic()
        asked = [
            (job, stream) for job in jobs if job.future.set_running_or_notify_cancel() and (stream := self._open(job))
        ]
        for job, _ in asked:
            self._metrics.stage("queue", now_s - job.arrived_s)
        for group in self.parts.answerer.groups(asked):
            self._answer(group)
        self.make_room()

    def due_s(self) -> float | None:
        """Return when the next window is due, on the monotonic clock; None if none is."""
        due = self._schedule.next()
        return due[0] if due else None

    def learn(self, now_s: float) -> None:
        """Learn from the window that is due longest, together with others that are due and fit into one step."""
        windows: list[tuple[Stream, list[Sample]]] = []
        rows = 0
        while (due := self._schedule.next()) and due[0] <= now_s:
            stream = self.parts.registry.in_memory(due[1])
            count = min(len(stream.window), self.parts.pace.rows) if stream else 0
            if windows and rows + count > self.parts.stack_rows:
                break
            self._schedule.set(due[1], None)
            if stream and count:
                windows.append((stream, stream.window.take(count)))
                rows += count
        self.parts.learner.learn(windows)
        for stream, _ in windows:
            self.settle(stream)
        self.make_room()

    def shed(self, now_s: float) -> None:
        """Drop the window that is due longest: there is no time for it."""
        due = self._schedule.next()
        if due is None or due[0] > now_s:
            return
        self._schedule.set(due[1], None)
        if stream := self.parts.registry.in_memory(due[1]):
            self._drop(stream, len(stream.window.take(self.parts.pace.rows)), "overload")
            self._metrics.stream.window(stream.name, stream.method.adapter.name, "dropped")
            self.settle(stream)

    def damage(self) -> str:
        """Return what is wrong with the shared weights, or an empty string."""
        if self.parts.backbone.digest() == self.parts.backbone.spec.digest:
            return ""
        return "the model's weights were damaged in memory; restart the server"

    def settle(self, stream: Stream) -> None:
        """Take notice of a stream that changed: of its size, and of when its window is due."""
        due_s = self.parts.pace.due_s(stream.window) if stream.learns_later else None
        self._schedule.set(stream.name, due_s)
        self.parts.registry.resized(stream)

    def make_room(self) -> None:
        """Keep to the limit on memory; not while a stream that may have to go is at work."""
        for name in self.parts.registry.make_room():
            self._schedule.set(name, None)

    def park(self, name: str) -> None:
        """Move a stream to disk until it is asked again; NotFound if it is not in memory."""
        self.parts.registry.evict(name)
        self._schedule.set(name, None)

    def park_idle(self, now_s: float, idle_s: float) -> None:
        """Move streams to disk that were not asked for `idle_s`; 0 moves none."""
        for stream in self.parts.registry.every_stream_in_memory() if idle_s else ():
            if now_s - stream.touched_s > idle_s:
                self.park(stream.name)

    def forget(self, name: str) -> None:
        """Drop what the worker remembers of a stream that is about to be erased."""
        self._schedule.set(name, None)
        self.parts.ledger.forget(name)

    def _open(self, job: Job) -> Stream | None:
        try:
            return self.parts.registry.open(job.stream, job.arrived_s)
        except TTAError as error:
            job.future.set_exception(error)
        except (ValueError, OSError) as error:  # its file does not fit or cannot be read
            log.exception("stream '%s' cannot be opened", job.stream)
            job.future.set_exception(TTAError(f"stream '{job.stream}' cannot be read back: {error}"))
        return None

    def _answer(self, group: Sequence[Asked]) -> None:
        started_s = time.monotonic()
        states = [(stream.version, stream.steps > 0 and not stream.answers_as_source) for _, stream in group]
        try:
            if group[0][1].mode == "inline" and group[0][0].rows > 1 and not group[0][1].answers_as_source:
                (probabilities, entropies), serve = self._inline(*group[0])
                states = [(version, adapted and serve == "adapted") for version, adapted in states]
            else:
                probabilities, entropies = self.parts.answerer.answer(group)
        except Exception as error:
            log.exception("a forward over %d images failed", sum(job.rows for job, _ in group))
            wrong = (
                BadRequest(str(error)) if isinstance(error, ValueError) else TTAError("the model failed; see the log")
            )
            for job, _ in group:
                job.future.set_exception(wrong)
            return
        self._metrics.batch(len(probabilities))
        self._metrics.stage("forward", time.monotonic() - started_s)
        end = 0
        for (job, stream), (version, adapted) in zip(group, states, strict=True):
            start, end = end, end + job.rows
            answer = Answer(probabilities[start:end], entropies[start:end], stream.name, version, adapted)
            self._reply(job, stream, answer)

    def _inline(self, job: Job, stream: Stream) -> tuple[Scores, Serve]:
        self._metrics.stream.offered(stream.name, job.rows)
        output, serve = self.parts.learner.inline(stream, as_samples(job.offered, job.client, job.arrived_s))
        self.settle(stream)
        return read(output), serve

    def _reply(self, job: Job, stream: Stream, answer: Answer) -> None:
        if not np.isfinite(answer.probabilities).all():
            job.future.set_exception(TTAError("the model's answer to these images is not finite; nothing was learnt"))
            return
        job.future.set_result(answer)
        if job.request_id:
            self.parts.ledger.add(job.request_id, stream.name, answer.probabilities.argmax(1), job.images)
        ratio = answer.entropy_nats.mean() / np.log(answer.probabilities.shape[1])
        stream.observe(float(ratio), float(answer.probabilities.max(1).mean()), job.rows)
        self._metrics.stream.answered(stream.name, job.rows, stream.entropy_ratio or 0.0, stream.confidence or 0.0)
        if stream.learns_later:
            self._offer(job, stream)

    def _offer(self, job: Job, stream: Stream) -> None:
        now_s = time.monotonic()
        self._metrics.stream.offered(stream.name, job.rows)
        for reason, count in stream.window.offer(job.offered, job.client, now_s).items():
            self._drop(stream, count, reason)
        if surplus := self.parts.pace.surplus(stream.window, job.rows, now_s):
            too_young = now_s < stream.window.began_s + self.parts.pace.min_age_s
            stream.window.displace(surplus)
            self._drop(stream, surplus, "too_young" if too_young else "overload")
        self.settle(stream)

    def _drop(self, stream: Stream, rows: int, reason: DropReason) -> None:
        stream.dropped[reason] += rows
        self._metrics.stream.dropped(stream.name, rows, reason)
