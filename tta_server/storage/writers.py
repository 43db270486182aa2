"""Threads that write side by side where somebody waits: a disk syncs many files in hardly more time than one."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

WRITERS: Final = 8
"""Most threads that write at once."""


def write_each(
    items: Iterable[T], write: Callable[[T], Exception | None], hurried: Callable[[], bool], ended: Callable[[], bool]
) -> list[Exception | None]:
    """Write items, by this thread and, while that is `hurried`, by a few more.

    Otherwise one after another, for what makes their bytes keeps the interpreter from the device thread.

    Args:
        items: What is to be written.
        write: Writes one; returns what went wrong. Any of the threads may call it.
        hurried: Whether somebody waits now.
        ended: Whether to leave the rest.

    Returns:
        What `write` did, in no order.
    """
    left, problems, helpers = deque(items), list[Exception | None](), list[threading.Thread]()

    def write_one() -> bool:
        try:
            item = left.popleft()
        except IndexError:
            return False
        problems.append(write(item))
        return not ended()

    def work() -> None:
        while write_one():
            pass

    most, going = WRITERS - 1, True
    while going:
        while hurried() and len(helpers) < min(most, len(left) - 1):
            helper = threading.Thread(target=work, name="keeper's helper", daemon=True)
            try:
                helper.start()
                helpers.append(helper)
            except RuntimeError as error:  # no more threads are to be had
                log.warning("fewer threads write states than could: %s", error)
                most = len(helpers)
        going = write_one()
    for helper in helpers:
        helper.join()
    return problems
