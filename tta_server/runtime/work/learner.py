"""Learn from windows: set lessons out, have steps tried, and do with a stream what came of it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_server.adapters import Step
from tta_server.drift.monitor import Sights
from tta_server.guard.verdict import Admission, Serve, Verdict
from tta_server.models import Backbone, Output
from tta_server.runtime.work.device import on_device
from tta_server.runtime.work.trial import UNSEEN, Beginning, Trial, Trials
from tta_server.runtime.work.watcher import Watcher
from tta_server.settings import AdaptWhen
from tta_server.streams.event import EventKind, StreamEvent, Tell
from tta_server.streams.lesson import BesideSteps, Lesson, Purpose
from tta_server.streams.stream import Stream
from tta_server.streams.window import Sample, digest
from tta_server.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """What the operator decides about all streams.

    Attributes:
        reset_every: Steps after which a stream starts again from the source; 0 never.
        when: Says of a stream's name when it is to learn.
        freeze_after: Restores in a row after which the guard switches a stream off.
        conditions: What steps depend on beside their adapter; for the audit log.
    """

    reset_every: int
    freeze_after: int
    when: Callable[[str], AdaptWhen]
    conditions: Mapping[str, Any]


class Learner:
    """Change streams by what steps have come to; the device thread alone may call it, but for `work_out`.

    Where a stream is answered inline, both threads may be at a step at the same time.
    """

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
        self._device = learns.device
        memory_format = learns.spec.memory_format
        self._arranged = {} if memory_format == "contiguous" else {"memory_format": memory_format}
        self._trials = Trials(learns, answers, metrics)
        self._tell = tell
        self._policy = policy

    def set_out(self, windows: Sequence[tuple[Stream, Sequence[Sample]]]) -> list[Lesson]:
        """Return the lessons that windows of different streams are, with the streams as they are now."""
        lessons = []
        for stream, rows in windows:
            try:
                lessons.append(self._lesson(stream, rows, self._purpose(stream)))
            except Exception as error:
                self._fail(stream, len(rows), error)
        return lessons

    def set_out_beside(self, stream: Stream, rows: Sequence[Sample], purpose: BesideSteps) -> list[Lesson]:
        """Return the lesson that something beside steps is: with images that wait in its window, or that none takes."""
        try:
            return [self._lesson(stream, rows, purpose)]
        except Exception as error:
            self._failed_beside(stream, purpose, len(rows), error)
            return []

    def work_out(self, lessons: Sequence[Lesson]) -> list[Trial]:
        """Try the steps, stacked where that is possible; any one thread may, and no stream is touched."""
        return self._trials.run(lessons)

    def carry_out(self, trial: Trial, here: bool) -> None:
        """Do with a stream what a trial has come to; an error costs what was taken, and the stream stays as it was.

        Args:
            trial: Of one of its windows.
            here: Whether the stream is still in memory: else the window is lost, and counted.
        """
        stream, error, rows = trial.lesson.stream, trial.error, trial.lesson.taken
        if not here and not rows:
            return
        if not here:
            reason, at = "the stream was set aside while a step was worked out", stream.standing
            self._tell(StreamEvent(stream.name, "failed", at, at, reason=reason, rows=rows))
            return
        if not error:
            try:
                self._carry_out(trial)
            except Exception as wrong:
                error = wrong
        if error and trial.lesson.purpose in ("begin", "again"):
            self._failed_beside(stream, trial.lesson.purpose, len(trial.lesson.rows), error)
        elif error:
            self._fail(stream, rows, error)

    def inline(self, stream: Stream, rows: Sequence[Sample]) -> tuple[Output, Serve, Output]:
        """Answer a request by the forward that is learnt from, as the papers do.

        Args:
            stream: Whose request it is.
            rows: Its images, at least 2.

        Returns:
            What the state before the step says, or what the source says if the guard, having looked, has it answer;
            which of the two it is; and what the source says, `UNSEEN` if it was not asked.
        """
        try:
            lesson = self._lesson(stream, rows, self._purpose(stream))
            (trial,) = self._trials.run([lesson])
            if trial.error:
                raise trial.error
            self._carry_out(trial)
            if stream.serve == "source" and trial.frozen is not UNSEEN:
                return trial.frozen, "source", trial.frozen
            answered = trial.answered if trial.answered is not UNSEEN else self._trials.answer(lesson)
            return (trial.step.output if trial.step else answered), "adapted", trial.frozen
        except Exception as error:
            self._fail(stream, len(rows), error)
            raise

    def _lesson(self, stream: Stream, rows: Sequence[Sample], purpose: Purpose) -> Lesson:
        x = on_device((row.image for row in rows), self._device)
        values = stream.method, stream.state, stream.base, stream.memory
        return Lesson(stream, rows, x, "" if purpose in ("begin", "again") else digest(rows), *values, purpose)

    def _purpose(self, stream: Stream) -> Purpose:
        """Return what is done about a window: nothing is learnt if its stream is to while it drifts, and does not."""
        whose = stream.parent or stream
        if self._policy.when(whose.name) == "always" or whose.drift.state in ("warning", "drift"):
            return "learn"
        return "leave" if stream.answers_as_source else "look"

    def _carry_out(self, trial: Trial) -> None:
        lesson, stream = trial.lesson, trial.lesson.stream
        if trial.beginning:
            self._begin(stream, trial.beginning, len(lesson.rows))
        elif lesson.purpose != "learn":
            if trial.admission:
                self._weighed(stream, trial.admission)
            if lesson.purpose == "look":
                self._watcher.left(lesson, trial.frozen)
            at = stream.standing
            kind: EventKind = "weighed" if lesson.purpose == "again" else "calm"
            self._tell(StreamEvent(stream.name, kind, at, at, stream, rows=lesson.taken))
        elif trial.step and trial.verdict:
            self._judged(trial, trial.step, trial.verdict)
        elif trial.admission:
            self._skip(lesson, trial.admission)

    def _begin(self, domain: Stream, beginning: Beginning, images: int) -> None:
        before = domain.standing
        domain.begin(beginning.state, images)
        domain.memory, domain.serve = beginning.memory, beginning.serve
        if domain.standing != before:
            reason = f"it has seen {images} images"
            self._tell(StreamEvent(domain.name, "begin", before, domain.standing, domain, reason=reason))

    def _weighed(self, stream: Stream, admission: Admission) -> None:
        """Have answer who should by images that are not learnt from, and say so where it is another than before."""
        before = stream.standing
        stream.memory, stream.serve = admission.memory, admission.serve
        if stream.standing != before:
            why = admission.cause, admission.reason
            self._tell(StreamEvent(stream.name, "skip", before, stream.standing, stream, *why))

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
            )
        )

    def _judged(self, trial: Trial, step: Step, verdict: Verdict) -> None:
        lesson, stream = trial.lesson, trial.lesson.stream
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
                extra=_particulars(stream, step, verdict, trial.stack) | self._arranged | self._noted(lesson, verdict),
            )
        )
        if len(trial.frozen.logits):
            self._watcher.learnt(lesson, Sights(trial.frozen, trial.answered, step.output), verdict.measures, by_source)
        if verdict.action in ("rollback", "reset"):
            self._count_restore(stream, verdict)
        elif verdict.action == "commit" and 0 < self._policy.reset_every <= stream.steps:
            self._begin_again(stream)

    def _noted(self, lesson: Lesson, verdict: Verdict) -> dict[str, Any]:
        """Return how a stream learns if the log is to say so with this verdict: a replay takes steps likewise."""
        if verdict.action != "commit" or lesson.stream.noted is lesson.method:
            return {}
        lesson.stream.noted = lesson.method
        return {**lesson.method.described, **self._policy.conditions}

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

    def _failed_beside(self, stream: Stream, purpose: Purpose, images: int, error: Exception) -> None:
        """Have a domain that cannot be begun be answered by the frozen model until it has grown again.

        And one of whose answers nobody can say how good they are until somebody can.
        """
        stream.serve = "source"
        if purpose == "begin":
            stream.begun = images  # or it would be tried again at once
        self._fail(stream, 0, error)

    def _fail(self, stream: Stream, rows: int, error: Exception) -> None:
        log.error("a step of stream '%s' failed; its state is as before", stream.name, exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        standing = stream.standing
        self._tell(
            StreamEvent(stream.name, "failed", standing, standing, stream, reason=reason, error=error, rows=rows)
        )


def _particulars(stream: Stream, step: Step, verdict: Verdict, stack: tuple[int, int] | None) -> dict[str, Any]:
    """Return what the audit log needs beside the verdict to take the step again."""
    extra: dict[str, Any] = {"stack": list(stack)} if stack else {}
    if verdict.action == "commit" and verdict.state is not step.state:
        extra["projected"] = True
    if verdict.action == "rollback":
        extra["to_steps"] = stream.steps
    return extra
