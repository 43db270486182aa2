"""What a signal does until a command sees to it: it ends the process.

In the middle of an import an exception may be lost or come out as another, so none is raised there. And the first
process of a container has nothing but its own handlers: without one, SIGTERM does nothing to it.
"""

import os
import signal
from types import FrameType


def end_at_once() -> None:
    """Have SIGTERM and SIGINT end this process, silently and wherever it is, unless they are ignored."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def interrupt_again() -> None:
    """Have SIGINT raise KeyboardInterrupt, as Python does, so that a command can clean up.

    SIGTERM ends it as it ends any program, in the middle of a long call too; but not the first process of a container.
    """
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is _end and os.getpid() != 1:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)  # the first process of a container is still there
