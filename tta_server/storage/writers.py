"""Threads that work side by side, mostly at waiting for a disk or a network."""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


def in_turn(items: Iterable[T], do: Callable[[T], None], callers: int) -> None:
    """Do something with each item, one after another or by several threads.

    They are daemons, for a disk may hang: no end of the process waits for them.
    """

    def work(left: deque[T]) -> None:
        for item in take(left):
            do(item)

    work_off(items, work, callers)


def take(left: deque[T]) -> Iterator[T]:
    """Yield what is left, each to one thread; it may have become less, or nothing, since somebody looked."""
    with contextlib.suppress(IndexError):
        while True:
            yield left.popleft()


def work_off(
    items: Iterable[T],
    work: Callable[[deque[T]], None],
    callers: int,
    hurried: Callable[[], bool] = lambda: True,
    ended: Callable[[], bool] = lambda: False,
) -> None:
    """Work off items, by this thread and, while that is `hurried`, by a few more.

    Args:
        items: What is to be done.
        work: Takes some of what is left and does it, on any of the threads; see `take`. It raises nothing.
        callers: Most threads that work at once.
        hurried: Whether more than one is to work now.
        ended: Whether to leave the rest.
    """
    left, helpers = deque(items), list[threading.Thread]()

    def go_on() -> None:
        while left and not ended():
            work(left)

    most = callers - 1
    try:
        while left and not ended():
            while hurried() and len(helpers) < min(most, len(left) - 1):
                helper = threading.Thread(target=go_on, name="storage's helper", daemon=True)
                try:
                    helper.start()
                    helpers.append(helper)
                except RuntimeError as error:  # no more threads are to be had
                    log.warning("fewer threads write than could: %s", error)
                    most = len(helpers)
            work(left)
    finally:
        for helper in helpers:
            helper.join()
