"""A thread for one piece of work at a time, beside the thread that hands it out."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, Literal, TypeVar

from tta_server.runtime.pulse import Pulse

T = TypeVar("T")


class Companion(Generic[T]):
    """Do what one other thread hands over; that thread alone may call it, but for `pulse`.

    Attributes:
        pulse: Whether the work at hand gets anywhere.
    """

    def __init__(self, name: str, done: Callable[[], None]) -> None:
        """Prepare.

        Args:
            name: Of the thread.
            done: Is called there when a piece of work is.
        """
        self.pulse = Pulse()
        self._done = done
        self._orders: SimpleQueue[tuple[Callable[[], T], Future[T]]] = SimpleQueue()
        self._at_hand: Future[T] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def state(self) -> Literal["idle", "busy", "done"]:
        """Whether nothing was handed over; or it is being done; or it is done, and `outcome` has it."""
        if self._at_hand is None:
            return "idle"
        return "done" if self._at_hand.done() else "busy"

    def begin(self, work: Callable[[], T]) -> None:
        """Hand over a piece of work, if nothing is at hand."""
        if self._thread.ident is None:
            self._thread.start()
        self._at_hand = future = Future[T]()
        self._orders.put((work, future))

    def outcome(self) -> T:
        """Return what came of the work, or raise what it raised; after that nothing is at hand.

        Raises:
            RuntimeError: If nothing was.
        """
        future, self._at_hand = self._at_hand, None
        if future is None:
            raise RuntimeError("no work was handed over")
        return future.result()

    def _run(self) -> None:
        while True:
            work, future = self._orders.get()
            with self.pulse.at_work():
                try:
                    found = work()
                except BaseException as error:  # whatever it is, the other thread is to know
                    future.set_exception(error)
                else:
                    future.set_result(found)
            del work, future
            self._done()
