"""The queue in front of the device thread, and the thread itself."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from math import inf
from typing import Any, TypeVar

from tta_server.errors import BadRequest, NotReady
from tta_server.pulse import Pulse
from tta_server.runtime.commands.stream_commands import Commands
from tta_server.runtime.job import Answer, Command, Job
from tta_server.runtime.memory import hand_back
from tta_server.runtime.queue.batcher import Batcher
from tta_server.runtime.queue.companion import Companion
from tta_server.runtime.queue.rest import Rest
from tta_server.runtime.queue.room import Reservation, Room
from tta_server.runtime.work.trial import Trial
from tta_server.runtime.work.worker import Worker
from tta_server.settings import EngineSettings
from tta_server.storage.pending import fail
from tta_server.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_INSPECT_EVERY_S = 30.0
_STOP_WITHIN_S = 10.0
_STOP_MOST_S = 15.0  # what is left of `FINISH_S` is for the storage
_LOOK_EVERY_S = 0.02
_QUIET_TURNS = 3  # of an event loop, in which no request came; each takes microseconds

T = TypeVar("T")


class Engine:
    """Let many threads ask, and one thread answer; steps are worked out on another, and carried out by the first.

    Answers go before learning: while requests wait, or just did so for one another, steps take at most `learn_share`
    of the time. While more than half the queue is full, windows are dropped instead. Operators' commands wait for a
    step that is under way.
    """

    def __init__(
        self,
        worker: Worker,
        commands: Commands,
        room: Room,
        settings: EngineSettings,
        metrics: Metrics,
        idle_s: float = 0.0,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            worker: What the thread does.
            commands: What operators may do.
            room: How much is taken on.
            settings: The queue and its limits.
            metrics: Where to report.
            idle_s: Time without a request after which a stream goes to disk, looked for every 30 s; 0 never.
        """
        self._idle_s = idle_s
        self._worker = worker
        self._operator = commands
        self._settings = settings
        self._batcher = batcher = Batcher[Job](settings.max_rows, settings.max_delay_ms / 1000)
        metrics.on_render(lambda: metrics.queue(batcher.rows))
        self._room = room
        self._lock = threading.RLock()  # of `_changed`; entered by itself it takes no call of Python's
        self._changed = threading.Condition(self._lock)
        self._commands: list[Command] = []
        self._closed = ""  # why nothing more is taken, for good
        self._trouble = "the server is starting"
        self._broken = False
        self._pulse = Pulse()
        self._rest = Rest(settings.learn_share)
        self._steps: Companion[list[Trial]] = Companion("learning", self._wake_now)
        self._step_began_s = 0.0
        self._in_hand: list[Future[Any]] = []  # of what the device thread is at
        self.started = False
        self._inspect_s = time.monotonic() + _INSPECT_EVERY_S
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Start the device thread and return when it has warmed up; an error of the warm-up is raised here."""
        self._thread.start()
        took_s = self._call(lambda: self._worker.warm_up(self._settings.max_rows)).result()
        if 0 < self._settings.stuck_after_s < took_s:
            about = "a step takes %.0f s, and engine.stuck_after_s is %g: then no probe finds the server live"
            log.warning(f"{about}; take a smaller engine.window_rows", took_s, self._settings.stuck_after_s)
        hand_back()
        self._trouble, self.started = "", True

    def stop(self, within_s: float = _STOP_WITHIN_S, why: str = "the server is stopping") -> bool:
        """Refuse new requests, answer those that wait, and end the device thread.

        Args:
            within_s: How long one piece of work is waited for, all `_STOP_MOST_S`; what waits behind is not answered.
            why: What new requests hear.

        Returns:
            Whether the device thread has ended.
        """
        begun_s = time.monotonic()
        with self._lock:
            self._closed = self._closed or why
            self._changed.notify()
        if self._thread.ident is None:
            return True
        end_s = begun_s + max(within_s, _STOP_MOST_S)
        while self._thread.is_alive() and self._pulse.busy_s(begun_s) < within_s and time.monotonic() < end_s:
            if self._steps.state == "busy" and self._steps.pulse.busy_s(begun_s) >= within_s:
                log.critical("a step does not end and is left behind; its streams stay as they are")
                self._steps.leave()
                self._wake_now()
            self._thread.join(_LOOK_EVERY_S)
        if self._thread.is_alive():
            log.critical("the device thread does not end and is left behind; what waits is not answered")
            self._abandon()
        return not self._thread.is_alive()

    def refuse_if_full(self) -> None:
        """Say what a request would hear now, so that a body that will be refused need not be read; keeps no room.

        Raises:
            Overloaded: If there is no room for one image.
            NotReady: If the server is starting, stopping or damaged.
        """
        with self._lock:
            self._expect_ready()
            self._room.expect(1, 0, self._batcher.rows, self._retry_after_s)

    def reserve(self, images: int, decoded_bytes: int) -> Reservation:
        """Keep room for a request until its images are decoded, queued and answered.

        Args:
            images: How many it has.
            decoded_bytes: What they take once they are decoded.

        Raises:
            BadRequest: If there are no images, or more than one forward takes.
            Overloaded: If there is no room.
            NotReady: If the server is starting, stopping or damaged.
        """
        if not 1 <= images <= self._settings.max_rows:
            raise BadRequest(f"request has {images} images, expected 1 to {self._settings.max_rows}")
        with self._lock:
            self._expect_ready()
            return self._room.reserve(images, decoded_bytes, self._batcher.rows, self._retry_after_s)

    def submit(
        self, job: Job, reserved: Reservation, soon: Callable[[Callable[[], None]], object] | None = None
    ) -> "Future[Answer]":
        """Queue a request.

        Args:
            job: Images of the backbone's shape, uint8 or finite float32 in [0, 1]; the name of its stream is valid.
                The stream is created with its first answer.
            reserved: Its room.
            soon: Calls a little later, such as an event loop's `call_soon`: the device thread is woken once no more
                come in between, so that what comes together is answered together. None wakes it at once.

        Returns:
            The answer to come, or the error; cancelling it drops the request if it still waits.

        Raises:
            NotReady: If the server is stopping or damaged.
        """
        job.future.add_done_callback(self._withdraw)
        with self._lock:
            self._expect_ready()
            reserved.queued()
            # Whoever waits already has had the thread woken; only a delay may be over with this one.
            sleeps = not self._batcher.rows or self._settings.max_delay_ms > 0
            self._batcher.put(job)
        if sleeps:
            self._wake(soon)
        return job.future

    @property
    def max_rows(self) -> int:
        """Most images in a request."""
        return self._settings.max_rows

    @property
    def is_occupied(self) -> bool:
        """Whether a request has room, and so is not answered yet."""
        return self._room.is_occupied

    def trouble(self) -> str:
        """Return why good requests cannot be answered, or an empty string: then the server is ready."""
        return self._closed or self._trouble or self._stuck()

    @property
    def broken(self) -> bool:
        """Whether only a restart helps."""
        return self._broken or bool(self._stuck())

    def command(self, run: Callable[[Commands], T]) -> "Future[T]":
        """Have an operator's command run between two groups of answers.

        Raises:
            NotReady: If the server is stopping or damaged.
        """
        return self._call(lambda: run(self._operator))

    def _wake(self, soon: Callable[[Callable[[], None]], object] | None, seen: int = 0, quiet: int = 0) -> None:
        """Have the device thread begin once no more come: both would hold each other up over Python's interpreter."""
        waiting = self._batcher.rows
        quiet = quiet + 1 if waiting == seen else 0
        if soon and quiet < _QUIET_TURNS and waiting < self._settings.max_rows:
            soon(partial(self._wake, soon, waiting, quiet))
            return
        self._wake_now()

    def _wake_now(self) -> None:
        with self._lock:
            self._changed.notify()

    def _expect_ready(self) -> None:
        if trouble := self.trouble():
            raise NotReady(trouble)

    def _retry_after_s(self) -> int:
        return self._batcher.emptied_in_s(time.monotonic())

    def _withdraw(self, future: "Future[Answer]") -> None:
        """Drop a request whose caller no longer waits; known by its future, for one that knew it would be a cycle."""
        if not future.cancelled():
            return
        with self._lock:
            for job in [job for job in self._batcher if job.future is future]:
                self._batcher.remove(job)

    def _call(self, command: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise NotReady(self._closed)
            self._commands.append(Command(command, future))
            self._changed.notify()
        return future

    def _stuck(self) -> str:
        """Return why nothing moves on, or an empty string."""
        still_s, most_s = max(self._pulse.still_s(), self._steps.pulse.still_s()), self._settings.stuck_after_s
        if not (self.started and most_s and still_s > most_s):
            return ""
        return f"the server has been at one piece of work for {still_s:.0f} s; restart it"

    def _run(self) -> None:
        try:
            while True:
                jobs, commands, last = self._next()
                self._in_hand = [*(job.future for job in jobs), *(command.future for command in commands)]
                if (trials := self._steps.outcome()) is not None:
                    with self._pulse:
                        self._worker.lessons.carry_out(trials)
                    self._rest.took(self._step_began_s, time.monotonic())
                for command in commands:
                    with self._pulse, self._worker.at_work():
                        command.carry_out()
                if jobs:
                    began_s = time.monotonic()
                    with self._pulse:
                        self._worker.answer(jobs)
                    self._rest.answered(len(jobs), began_s, time.monotonic())
                elif last:
                    return
                if not last:
                    with self._pulse:
                        self._learn()
                        if not jobs:
                            self._worker.read_on(self._rest.asked(time.monotonic()))
                jobs, commands, self._in_hand = [], [], []  # nothing is held while nothing comes
        except BaseException:  # an adapter or a network may be anybody's, and call sys.exit
            log.exception("the device thread died")
            with self._lock:
                self._closed, self._broken = "the device thread has died; restart the server", True
            self._abandon()
        finally:
            self._steps.close()

    def _abandon(self) -> None:
        """Fail whatever is at hand or waits: nobody will see to it."""
        with self._lock:
            waiting = [*self._in_hand, *(job.future for job in self._batcher.clear())]
            waiting += [command.future for command in self._commands]
            self._commands.clear()
        fail(waiting, NotReady(self._closed))

    def _learn(self) -> None:
        now_s, turn_s = time.monotonic(), self._turn_s()
        if now_s < turn_s:
            return
        if self._is_crowded():
            self._worker.shed(now_s)
        elif lessons := self._worker.lessons.take(now_s):
            self._step_began_s = now_s
            self._steps.begin(partial(self._worker.lessons.work_out, lessons))

    def _turn_s(self) -> float:
        """Return when the next window may be learnt from or dropped, with requests waiting as they do now, if any."""
        due_s = self._worker.due_s() if self._steps.state == "idle" else None
        if due_s is None or self._is_crowded():
            return inf if due_s is None else due_s
        return self._rest.turn_s(due_s, self._batcher.waits(time.monotonic()))

    def _is_crowded(self) -> bool:
        return self._batcher.rows > self._settings.max_queue_rows // 2

    def _next(self) -> tuple[list[Job], list[Command], bool]:
        """Wait for something to do.

        Returns:
            A group to answer, commands to run, and whether nothing more comes in: then an empty group means that
            nothing waits either.
        """
        with self._lock:
            while True:
                now_s, steps = time.monotonic(), self._steps.state
                jobs = self._batcher.take(inf if self._closed else now_s, self._worker.grouping())
                if now_s >= self._inspect_s:
                    self._inspect_s = now_s + _INSPECT_EVERY_S
                    self._commands.append(Command(self._inspect, Future()))
                if jobs or steps == "done":
                    break
                turn_s = min(self._turn_s(), self._worker.unread_s if steps == "idle" else inf)
                if turn_s <= now_s or (steps == "idle" and (self._commands or self._closed)):
                    break
                group_s = self._batcher.due_s()
                due_s = min(self._inspect_s, turn_s, inf if group_s is None else group_s)
                self._changed.wait(max(0.0, due_s - now_s))
            commands = [] if steps == "busy" else list(self._commands)
            del self._commands[: len(commands)]
            return jobs, commands, bool(self._closed) and steps != "busy"

    def _inspect(self) -> None:
        self._worker.park_idle(time.monotonic(), self._idle_s)
        hand_back()
        try:
            trouble = self._worker.damage()
        except Exception as error:  # a device that has failed for good raises from here on
            trouble = f"the model's weights cannot be read ({error}); restart the server"
        if trouble:
            log.critical(trouble)
            self._trouble, self._broken = trouble, True
