"""A thread for one piece of work at a time, beside the thread that hands it out.

Work may take much memory for a moment, which is handed back after each piece.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, Literal, TypeVar

from tta_server.pulse import Pulse
from tta_server.runtime.memory import hand_back

T = TypeVar("T")


class Companion(Generic[T]):
    """Do what one other thread hands over; that thread alone may call it, but for `pulse` and `leave`.

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
        self._orders: SimpleQueue[tuple[Callable[[], T], Future[T]] | None] = SimpleQueue()
        self._at_hand: Future[T] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def state(self) -> Literal["idle", "busy", "done"]:
        """Whether nothing was handed over; or it is being done; or it is done, and `outcome` has it."""
        future = self._at_hand
        return "idle" if future is None else "done" if future.done() else "busy"

    def begin(self, work: Callable[[], T]) -> None:
        """Hand over a piece of work, if nothing is at hand."""
        if self._thread.ident is None:
            self._thread.start()
        self._at_hand = future = Future[T]()
        self._orders.put((work, future))

    def outcome(self) -> T | None:
        """Return what came of the work, or raise what it raised, if it is done; after that nothing is at hand."""
        future = self._at_hand
        if future is None or not future.done():
            return None
        self._at_hand = None
        return future.result()

    def leave(self) -> None:
        """Have nothing at hand, whatever is being done; any thread may call it."""
        self._at_hand = None

    def close(self) -> None:
        """Have the thread end, once it is done with what is at hand."""
        self._orders.put(None)

    def _run(self) -> None:
        while order := self._orders.get():
            with self.pulse:
                self._do(*order)
            del order  # nothing is held while nothing comes
            self._done()
            hand_back()

    def _do(self, work: Callable[[], T], future: Future[T]) -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # whatever it is, the other thread is to know
            future.set_exception(error)
