"""Steps are tried: what both models answer to a window, what an adapter makes of it, and what the guard says of that.

Values go in and values come out; nothing of a stream is read or changed. So another thread than the device thread may
try steps, while that one answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from tta_server.adapters import State, Step
from tta_server.adapters.stack import adapt_stacked, predict_stacked
from tta_server.guard.judge import Unguarded
from tta_server.guard.verdict import Admission, Memory, Serve, Verdict
from tta_server.models import Backbone, Output
from tta_server.pulse import beat
from tta_server.streams.lesson import Lesson
from tta_server.telemetry.metrics import Metrics

UNSEEN = Output(torch.empty(0), torch.empty(0))
"""What nobody was asked for."""


class Beginning(NamedTuple):
    """What a domain is begun with.

    Attributes:
        state: What it answers with until the first step.
        memory: What the guard remembers of it.
        serve: Whether that state or the frozen model answers.
    """

    state: State
    memory: Memory
    serve: Serve


@dataclass(frozen=True, eq=False)
class Trial:
    """What one lesson has come to.

    Attributes:
        lesson: The lesson.
        frozen: What the frozen model says of the window; `UNSEEN` if it was not asked.
        answered: What the stream answers to it; `UNSEEN` if it was not asked.
        admission: Whether it may be learnt from; None if that was not the purpose.
        step: What the adapter made of it; None if no step was taken.
        verdict: What the guard says of the step.
        beginning: What the domain is begun with, if that was the purpose.
        stack: Its place among those that shared the step, and how many they are; None if it was taken alone.
        error: What went wrong, if anything did; then nothing else is known.
    """

    lesson: Lesson
    frozen: Output = UNSEEN
    answered: Output = UNSEEN
    admission: Admission | None = None
    step: Step | None = None
    verdict: Verdict | None = None
    beginning: Beginning | None = None
    stack: tuple[int, int] | None = None
    error: Exception | None = None


class Trials:
    """Try steps; it keeps nothing, and several threads may ask: the network has a lock, and all else are values."""

    def __init__(self, learns: Backbone, answers: Backbone, metrics: Metrics) -> None:
        """Prepare.

        Args:
            learns: The network, as steps run it: a replay takes the same whatever answers.
            answers: The network, as answers run it: what the guard compares.
            metrics: Where times are reported.
        """
        self._learns = learns
        self._answers = answers
        self._metrics = metrics

    def run(self, lessons: Sequence[Lesson]) -> list[Trial]:
        """Try the lessons of different streams; those with an equal method and number of images share a step.

        An error is that of the lessons it happened in.
        """
        looked = [self._look(lesson) for lesson in lessons if lesson.purpose != "learn"]
        groups = _alike([lesson for lesson in lessons if lesson.purpose == "learn"], self._learns.findings.stacks)
        return looked + [trial for group in groups for trial in self._together(group)]

    def answer(self, lesson: Lesson) -> Output:
        """Return what a stream answers to its window."""
        return lesson.method.adapter.predict(self._answers, lesson.state, lesson.x)

    def _look(self, lesson: Lesson) -> Trial:
        if lesson.purpose == "leave":
            return Trial(lesson)
        try:
            if lesson.purpose == "begin":
                return Trial(lesson, beginning=self._begin(lesson))
            return self._weighed(Trial(lesson, self._frozen([lesson])[0]), lesson.memory)
        except Exception as error:
            return Trial(lesson, error=error)

    def _skipped(self, trial: Trial) -> Trial:
        """Return a trial whose window is not learnt from: who answers such images is seen to in any case."""
        refused = trial.admission
        if not refused or refused.cause != "too_few_pictures":
            return trial
        weighed = self._weighed(trial, refused.memory).admission or refused
        return replace(trial, admission=replace(refused, memory=weighed.memory, serve=weighed.serve))

    def _weighed(self, trial: Trial, memory: Memory) -> Trial:
        """Return a trial with what the guard says of the stream's answers, where nothing is learnt from the images."""
        lesson = trial.lesson
        if isinstance(lesson.method.guard, Unguarded) or lesson.state is lesson.method.initial:
            return trial
        with self._metrics.timed("judge"):
            answered = self.answer(lesson)
            admission = lesson.method.guard.look(memory, lesson.x, trial.frozen, answered)
        return replace(trial, answered=answered, admission=admission)

    def _begin(self, lesson: Lesson) -> Beginning:
        adapter, guard = lesson.method.adapter, lesson.method.guard
        state = adapter.begin(self._answers, lesson.base, lesson.x)
        if isinstance(guard, Unguarded):
            return Beginning(state, lesson.memory, "adapted")
        frozen, answered = self._answers.forward(lesson.x), adapter.predict(self._answers, state, lesson.x)
        return Beginning(state, *guard.weigh(lesson.memory, lesson.x, frozen, answered))

    def _together(self, lessons: Sequence[Lesson]) -> list[Trial]:
        try:
            return self._try(lessons)
        except Exception as error:
            if len(lessons) > 1:  # one of them may be at fault
                return [trial for lesson in lessons for trial in self._together([lesson])]
            return [Trial(lessons[0], error=error)]

    def _try(self, lessons: Sequence[Lesson]) -> list[Trial]:
        frozen = [UNSEEN] * len(lessons) if _unguarded(lessons) else self._frozen(lessons)
        with self._metrics.timed("judge"):
            trials = [
                Trial(each, said, admission=each.method.guard.admit(each.memory, each.x, said))
                for each, said in zip(lessons, frozen, strict=True)
            ]
            admitted = [(trial, trial.admission) for trial in trials if trial.admission and trial.admission.learn]
        taken = [trial.lesson for trial, _ in admitted]
        beat()  # each part may take a large network many seconds
        steps = self._adapt(taken)
        beat()
        answered = self._answered(taken, steps)
        found = [self._skipped(trial) for trial in trials if trial.lesson not in taken]
        for slot, ((trial, admission), step, said) in enumerate(zip(admitted, steps, answered, strict=True)):
            stack = (slot, len(steps)) if len(steps) > 1 else None
            found.append(self._judged(replace(trial, step=step, answered=said, stack=stack), step, admission.memory))
        return found

    def _judged(self, trial: Trial, step: Step, memory: Memory) -> Trial:
        lesson = trial.lesson
        try:
            with self._metrics.timed("judge"):
                verdict = lesson.method.guard.judge(memory, lesson.base, step, lesson.x, trial.frozen, trial.answered)
        except Exception as error:
            return Trial(lesson, error=error)
        return replace(trial, verdict=verdict)

    def _frozen(self, lessons: Sequence[Lesson]) -> list[Output]:
        with self._metrics.timed("judge"):
            if not self._answers.findings.apart:
                return [self._answers.forward(lesson.x) for lesson in lessons]
            everything = self._answers.forward(torch.cat([lesson.x for lesson in lessons]))
            sizes = [len(lesson.rows) for lesson in lessons]
            parts = zip(torch.split(everything.logits, sizes), torch.split(everything.features, sizes), strict=True)
            return [Output(*part) for part in parts]

    def _adapt(self, lessons: Sequence[Lesson]) -> list[Step]:
        if not lessons:
            return []
        adapter = lessons[0].method.adapter
        with self._metrics.timed("adapt"):
            if len(lessons) == 1:
                return [adapter.adapt(self._learns, lessons[0].base, lessons[0].x)]
            states = [lesson.base for lesson in lessons]
            return adapt_stacked(adapter, self._learns, states, torch.stack([lesson.x for lesson in lessons]))

    def _answered(self, lessons: Sequence[Lesson], steps: Sequence[Step]) -> list[Output]:
        """Return what the streams answer to the windows that they learn from."""
        if _unguarded(lessons):
            return [UNSEEN] * len(lessons)
        adapter = lessons[0].method.adapter
        if adapter.batch_coupled:  # an answer is then made of the batch's own statistics, as the step is
            return [step.output for step in steps]
        with self._metrics.timed("judge"):
            if len(lessons) == 1:
                return [self.answer(lessons[0])]
            states = [lesson.state for lesson in lessons]
            together = predict_stacked(adapter, self._answers, states, torch.stack([lesson.x for lesson in lessons]))
            return [Output(*parts) for parts in zip(together.logits, together.features, strict=True)]


def _unguarded(lessons: Sequence[Lesson]) -> bool:
    """Say whether nobody looks at what models answer to the windows."""
    return all(isinstance(lesson.method.guard, Unguarded) for lesson in lessons)


def _alike(lessons: Sequence[Lesson], stacks: bool) -> list[list[Lesson]]:
    """Group lessons that may share a step."""
    groups: dict[object, list[Lesson]] = {}
    for index, lesson in enumerate(lessons):
        key = (id(lesson.method), len(lesson.rows)) if stacks and lesson.method.adapter.stackable else index
        groups.setdefault(key, []).append(lesson)
    return list(groups.values())
