"""Learn from windows: look at them with the source model, take a step, let the guard judge, and commit or not."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from tta_server.adapters import Step
from tta_server.adapters.stack import adapt_stacked, predict_stacked
from tta_server.drift.monitor import Sights
from tta_server.guard.judge import Unguarded
from tta_server.guard.verdict import Admission, Serve, Verdict
from tta_server.models import Backbone, Output
from tta_server.runtime.device import on_device
from tta_server.runtime.watcher import Watcher
from tta_server.settings import AdaptWhen
from tta_server.streams.event import StreamEvent, Tell
from tta_server.streams.lesson import Lesson
from tta_server.streams.stream import Stream
from tta_server.streams.window import Sample, digest
from tta_server.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_UNSEEN = Output(torch.empty(0), torch.empty(0))


class _Seen(NamedTuple):
    """What is known of a window that may be learnt from: what both models answer to it, and why it may."""

    frozen: Output
    answered: Output
    admission: Admission


@dataclass(frozen=True)
class Policy:
    """What the operator decides about all streams.

    Attributes:
        reset_every: Steps after which a stream starts again from the source; 0 never.
        when: Says of a stream's name when it is to learn.
        freeze_after: Restores in a row after which the guard switches a stream off.
    """

    reset_every: int
    freeze_after: int
    when: Callable[[str], AdaptWhen]


class Learner:
    """Take steps; the device thread alone may call it."""

    def __init__(
        self, learns: Backbone, answers: Backbone, metrics: Metrics, tell: Tell, policy: Policy, watcher: Watcher
    ) -> None:
        """Prepare.

        Args:
            learns: The network, as steps run it: a replay takes the same whatever answers.
            answers: The network, as answers run it: what the guard compares.
            metrics: Where times are reported.
            tell: Hears of everything that happens to a stream.
            policy: What the operator decides.
            watcher: Watches the drift of streams.
        """
        self._watcher = watcher
        self._learns = learns
        memory_format = learns.spec.memory_format
        self._arranged = {} if memory_format == "contiguous" else {"memory_format": memory_format}
        self._answers = answers
        self._metrics = metrics
        self._tell = tell
        self._policy = policy

    def learn(self, windows: Sequence[tuple[Stream, Sequence[Sample]]]) -> None:
        """Learn from one window of each of some streams, stacked where that is possible.

        An error costs the windows that it happened in; the streams stay as they were.

        Args:
            windows: Different streams; those with an equal method and number of images share a step.
        """
        wanted = [(stream, rows) for stream, rows in windows if not self._leaves(stream, rows)]
        for group in _alike(wanted, self._learns.findings.stacks):
            try:
                self._learn([self._lesson(stream, rows) for stream, rows in group])
            except Exception as error:
                if len(group) > 1:  # one of them may be at fault
                    for window in group:
                        self.learn([window])
                else:
                    self._fail(*group[0], error)

    def inline(self, stream: Stream, rows: Sequence[Sample]) -> tuple[Output, Serve]:
        """Answer a request by the forward that is learnt from, as the papers do.

        Args:
            stream: Whose request it is.
            rows: Its images, at least 2.

        Returns:
            What the state before the step says, or what the source says if the guard, having looked, has it answer;
            and which of the two it is.
        """
        try:
            lesson = self._lesson(stream, rows)
            if self._leaves(stream, rows):
                return self._predict(lesson), "adapted"
            (frozen,), (admission,) = self._admit([lesson])
            if admission.learn:
                step = self._adapt([lesson])[0]
                output = step.output
                self._judge(lesson, step, _Seen(frozen, output, admission))
            else:
                output = frozen if admission.serve == "source" else self._predict(lesson)
                self._skip(lesson, admission)
        except Exception as error:
            self._fail(stream, rows, error)
            raise
        return (frozen, "source") if stream.serve == "source" else (output, "adapted")

    def _leaves(self, stream: Stream, rows: Sequence[Sample]) -> bool:
        """Say whether a window is left alone, because its stream is to learn while it drifts only, and does not."""
        whose = stream.parent or stream
        if self._policy.when(whose.name) == "always" or whose.drift.state in ("warning", "drift"):
            return False
        if not stream.answers_as_source:  # else the frozen model has seen it
            try:
                lesson = self._lesson(stream, rows)
                (frozen,) = self._frozen([lesson])
            except Exception as error:
                self._fail(stream, rows, error)
                return True
            self._watcher.left(lesson, frozen)
        at = stream.standing
        self._tell(StreamEvent(stream.name, "calm", at, at, stream, rows=len(rows)))
        return True

    def _learn(self, lessons: list[Lesson]) -> None:
        frozen, admissions = self._admit(lessons)
        admitted = [i for i, admission in enumerate(admissions) if admission.learn]
        # The step comes before any stream changes: if it fails, the windows can be learnt from one by one.
        steps = self._adapt([lessons[i] for i in admitted])
        answered = self._answered([lessons[i] for i in admitted], steps)
        for i, admission in enumerate(admissions):
            if not admission.learn:
                self._skip(lessons[i], admission)
        for slot, (i, step) in enumerate(zip(admitted, steps, strict=True)):
            stack = (slot, len(steps)) if len(steps) > 1 else None
            try:
                self._judge(lessons[i], step, _Seen(frozen[i], answered[slot], admissions[i]), stack)
            except Exception as error:
                self._fail(lessons[i].stream, lessons[i].rows, error)

    def _lesson(self, stream: Stream, rows: Sequence[Sample]) -> Lesson:
        x = on_device((row.image for row in rows), self._learns.device)
        return Lesson(stream, rows, x, digest(rows))

    def _admit(self, lessons: Sequence[Lesson]) -> tuple[list[Output], list[Admission]]:
        frozen = [_UNSEEN] * len(lessons) if _unguarded(lessons) else self._frozen(lessons)
        with self._metrics.timed("judge"):
            return frozen, [
                lesson.stream.method.guard.admit(lesson.stream.memory, lesson.stream.state, lesson.x, output)
                for lesson, output in zip(lessons, frozen, strict=True)
            ]

    def _frozen(self, lessons: Sequence[Lesson]) -> list[Output]:
        with self._metrics.timed("judge"):
            if not self._answers.findings.apart:
                return [self._answers.forward(lesson.x) for lesson in lessons]
            everything = self._answers.forward(torch.cat([lesson.x for lesson in lessons]))
            sizes = [len(lesson.rows) for lesson in lessons]
            parts = zip(torch.split(everything.logits, sizes), torch.split(everything.features, sizes), strict=True)
            return [Output(*part) for part in parts]

    def _predict(self, lesson: Lesson) -> Output:
        return lesson.stream.method.adapter.predict(self._answers, lesson.stream.state, lesson.x)

    def _adapt(self, lessons: Sequence[Lesson]) -> list[Step]:
        if not lessons:
            return []
        adapter = lessons[0].stream.method.adapter
        with self._metrics.timed("adapt"):
            if len(lessons) == 1:
                return [adapter.adapt(self._learns, lessons[0].stream.base, lessons[0].x)]
            states = [lesson.stream.base for lesson in lessons]
            return adapt_stacked(adapter, self._learns, states, torch.stack([lesson.x for lesson in lessons]))

    def _answered(self, lessons: Sequence[Lesson], steps: Sequence[Step]) -> list[Output]:
        """Return what the streams answer to the windows that they learn from."""
        if _unguarded(lessons):
            return [_UNSEEN] * len(lessons)
        adapter = lessons[0].stream.method.adapter
        if adapter.batch_coupled:  # an answer is then made of the batch's own statistics, as the step is
            return [step.output for step in steps]
        with self._metrics.timed("judge"):
            if len(lessons) == 1:
                return [self._predict(lessons[0])]
            states = [lesson.stream.state for lesson in lessons]
            together = predict_stacked(adapter, self._answers, states, torch.stack([lesson.x for lesson in lessons]))
            return [Output(*parts) for parts in zip(together.logits, together.features, strict=True)]

    def _skip(self, lesson: Lesson, admission: Admission) -> None:
        stream, before = lesson.stream, lesson.stream.standing
        stream.memory, stream.serve = admission.memory, admission.serve
        self._tell(
            StreamEvent(
                stream.name,
                "skip",
                before,
                stream.standing,
                stream,
                admission.cause,
                admission.reason,
                lesson=lesson,
                rows=len(lesson.rows),
                measures=admission.measures,
            )
        )

    def _judge(self, lesson: Lesson, step: Step, seen: _Seen, stack: tuple[int, int] | None = None) -> None:
        stream = lesson.stream
        with self._metrics.timed("judge"):
            verdict = stream.method.guard.judge(
                seen.admission.memory, stream.base, step, lesson.x, seen.frozen, seen.answered
            )
        before, by_source = stream.standing, stream.answers_as_source
        self._apply(lesson, verdict)
        self._tell(
            StreamEvent(
                stream.name,
                verdict.action,
                before,
                stream.standing,
                stream,
                verdict.cause,
                verdict.reason,
                lesson=lesson,
                rows=len(lesson.rows),
                step=step,
                verdict=verdict,
                measures=verdict.measures,
                extra=_particulars(stream, step, verdict, stack) | self._arranged,
            )
        )
        if len(seen.frozen.logits):
            self._watcher.learnt(lesson, Sights(seen.frozen, seen.answered, step.output), verdict.measures, by_source)
        if verdict.action in ("rollback", "reset"):
            self._count_restore(stream, verdict)
        elif verdict.action == "commit" and stream.steps == self._policy.reset_every:
            self._begin_again(stream)

    def _apply(self, lesson: Lesson, verdict: Verdict) -> None:
        stream = lesson.stream
        stream.memory, stream.serve = verdict.memory, verdict.serve
        if verdict.action == "commit":
            stream.commit(verdict.state, len(lesson.rows), verdict.passed)
            stream.restores = 0 if verdict.passed else stream.restores
        elif verdict.action != "reject":
            good = stream.history.newest_passed() if verdict.action == "rollback" else None
            if good:
                stream.go_to(good.state, good.steps, passed=True)
            else:
                stream.restart()

    def _begin_again(self, stream: Stream) -> None:
        """Reset a stream after so many steps.

        Press et al., NeurIPS 2023, arXiv:2306.05401: on long streams a plain periodic reset beats most methods.
        """
        before = stream.standing
        stream.restart()
        reason = f"after {self._policy.reset_every} steps"
        self._tell(StreamEvent(stream.name, "reset", before, stream.standing, stream, "periodic", reason))

    def _count_restore(self, stream: Stream, verdict: Verdict) -> None:
        stream.restores += 1
        if stream.restores < self._policy.freeze_after:
            return
        stream.frozen = f"taken back {stream.restores} times in a row, last because: {verdict.reason}"
        stream.mode = "off"
        standing = stream.standing
        self._tell(StreamEvent(stream.name, "freeze", standing, standing, stream, verdict.cause, stream.frozen))

    def _fail(self, stream: Stream, rows: Sequence[Sample], error: Exception) -> None:
        log.error("a step of stream '%s' failed; its state is as before", stream.name, exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        standing = stream.standing
        told = StreamEvent(
            stream.name, "failed", standing, standing, stream, reason=reason, error=error, rows=len(rows)
        )
        self._tell(told)


def _unguarded(lessons: Sequence[Lesson]) -> bool:
    """Say whether nobody looks at what models answer to the windows."""
    return all(isinstance(lesson.stream.method.guard, Unguarded) for lesson in lessons)


def _alike(
    windows: Sequence[tuple[Stream, Sequence[Sample]]], stacks: bool
) -> list[list[tuple[Stream, Sequence[Sample]]]]:
    """Group windows that may share a step."""
    groups: dict[object, list[tuple[Stream, Sequence[Sample]]]] = {}
    for index, (stream, rows) in enumerate(windows):
        key = (id(stream.method), len(rows)) if stacks and stream.method.adapter.stackable else index
        groups.setdefault(key, []).append((stream, rows))
    return list(groups.values())


def _particulars(stream: Stream, step: Step, verdict: Verdict, stack: tuple[int, int] | None) -> dict[str, Any]:
    """Return what the audit log needs beside the verdict to take the step again."""
    extra: dict[str, Any] = {"stack": list(stack)} if stack else {}
    if verdict.action == "commit" and verdict.state is not step.state:
        extra["projected"] = True
    if verdict.action == "rollback":
        extra["to_steps"] = stream.steps
    return extra
