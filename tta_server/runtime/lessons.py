"""The windows that are learnt from while others are answered."""

from collections.abc import Sequence
from contextlib import ExitStack

from tta_server.runtime.learner import Learner
from tta_server.runtime.sharing import Sharing
from tta_server.runtime.trial import Trial
from tta_server.streams.lesson import Lesson
from tta_server.streams.registry import Registry
from tta_server.streams.stream import Stream
from tta_server.streams.window import Sample


class Lessons:
    """Take windows that are due, and do with their streams what came of them; the device thread alone may call it.

    In between, any thread may call `work_out`; the streams are answered as they were, and stay where they are.

    Attributes:
        under_way: Names of the streams that were taken windows of, until these lessons are carried out.
    """

    def __init__(self, registry: Registry, learner: Learner, sharing: Sharing) -> None:
        """Prepare.

        Args:
            registry: The streams.
            learner: Learns from windows.
            sharing: Says how many images fit into one step.
        """
        self._registry = registry
        self._learner = learner
        self._sharing = sharing
        self._kept = ExitStack()
        self.under_way: frozenset[str] = frozenset()

    def take(self, now_s: float) -> list[Lesson]:
        """Take the window that is due longest, and others that are due and fit into one step; none is under way yet.

        Whoever takes some must call `carry_out` before anybody changes a stream, but for answers.
        """
        windows: list[tuple[Stream, Sequence[Sample]]] = []
        room: int | None = None
        with ExitStack() as kept:
            kept.enter_context(self._registry.at_work())
            while window := self._registry.take_due(now_s, room):
                windows.append(window)
                room = self._sharing.stack_rows - sum(len(rows) for _, rows in windows)
            lessons = self._learner.set_out(windows)
            if lessons:
                self._kept = kept.pop_all()
        self.under_way = frozenset(lesson.stream.name for lesson in lessons)
        return lessons

    def work_out(self, lessons: Sequence[Lesson]) -> list[Trial]:
        """Try the steps; another thread may."""
        return self._learner.work_out(lessons)

    def carry_out(self, trials: Sequence[Trial]) -> None:
        """Have the streams be what came of their lessons; one that is not here any more stays as it is."""
        self.under_way = frozenset()
        with self._kept:
            for trial in trials:
                stream = trial.lesson.stream
                if self._registry.in_memory(stream.name) is not stream:
                    continue
                try:
                    self._learner.carry_out(trial)
                except Exception as error:  # not the step's: the learner answers for those
                    self._registry.set_aside(stream.name, error)
