"""Refusals in the log: each kind is told at once, and then ever more rarely while it goes on."""

import logging
import time
from collections.abc import Callable
from typing import Final

from tta_server.telemetry.log_format import fields

log = logging.getLogger(__name__)

_BURST_S: Final = 60.0


class Bursts:
    """Tell the 1st, 10th, 100th and so on of what is refused for one reason within a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a clock, in seconds."""
        self._clock = clock
        self._running: dict[str, tuple[float, int]] = {}

    def refused(self, reason: str, level: int = logging.INFO, **about: object) -> None:
        """Count one that was refused.

        Args:
            reason: Why, from a closed set.
            level: How severe that is.
            about: Fields of the line, if this one is told.
        """
        now_s = self._clock()
        began_s, before = self._running.get(reason, (now_s, 0))
        if now_s - began_s >= _BURST_S:
            began_s, before = now_s, 0
        count = before + 1
        self._running[reason] = began_s, count
        if str(count).strip("0") == "1":
            log.log(level, "refused: %s, number %d within a minute", reason, count, extra=fields(**about))
