"""The windows that are learnt from while others are answered."""

from collections.abc import Sequence
from contextlib import ExitStack

from tta_server.runtime.work.learner import Learner
from tta_server.runtime.work.sharing import Sharing
from tta_server.runtime.work.trial import Trial
from tta_server.streams.lesson import Lesson
from tta_server.streams.registry import Registry
from tta_server.streams.stream import Stream
from tta_server.streams.window import Sample


class Lessons:
    """Take windows that are due, and do with their streams what came of them; the device thread alone may call it.

    In between, any thread may call `work_out`; the streams are answered as they were, and stay where they are
    (`Directory.learning`).
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
        self._was_beside = False

    def take(self, now_s: float) -> list[Lesson]:
        """Take what waits beside steps, or windows that are due and fit into one step; none is under way yet.

        They take turns: windows may be due all the time, and a window that is taken leaves nothing to begin with.

        Whoever takes some must call `carry_out` before anybody changes a stream, but for answers.
        """
        windows: list[tuple[Stream, Sequence[Sample]]] = []
        room: int | None = None
        with ExitStack() as kept:
            kept.enter_context(self._registry.at_work())
            beside = None if self._was_beside else self._registry.take_beside()
            while not beside and (window := self._registry.take_due(now_s, room)):
                windows.append(window)
                room = self._sharing.stack_rows - sum(len(rows) for _, rows in windows)
            if not windows:
                beside = beside or self._registry.take_beside()
            self._was_beside = bool(beside)
            lessons = self._learner.set_out_beside(*beside) if beside else self._learner.set_out(windows)
            if lessons:
                self._kept = kept.pop_all()
        self._registry.learning = frozenset(lesson.stream.name for lesson in lessons)
        return lessons

    def work_out(self, lessons: Sequence[Lesson]) -> list[Trial]:
        """Try the steps; another thread may. Whatever goes wrong is in what is returned."""
        try:
            return self._learner.work_out(lessons)
        except BaseException as error:  # an adapter may be anybody's
            wrong = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
            return [Trial(lesson, error=wrong) for lesson in lessons]

    def carry_out(self, trials: Sequence[Trial]) -> None:
        """Have the streams be what came of their lessons; one that was set aside meanwhile stays as it is."""
        self._registry.learning = frozenset()
        with self._kept:
            for trial in trials:
                stream = trial.lesson.stream
                try:
                    self._learner.carry_out(trial, self._registry.in_memory(stream.name) is stream)
                except Exception as error:  # not the step's: the learner answers for those
                    self._registry.set_aside(stream.name, error)
