"""When the next round of writing is due, and how the last ones went."""

import logging
import time

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 60.0


class Rounds:
    """Space rounds out, further after failures.

    Attributes:
        failures: Rounds that failed since the start.
        trouble: Why the last round failed, or an empty string.
        due_s: When the next one may begin, on a monotonic clock.
        begun: How many were, which is the number of the newest.
        whole: Number of the newest that left nothing out.
    """

    def __init__(self, interval_s: float, retry_s: float) -> None:
        """Take the wait between rounds, and that after a failure: doubled with each further one, up to a minute."""
        self.failures = 0
        self.trouble = ""
        self.due_s = 0.0
        self.begun = 0
        self.whole = 0
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._failed_in_a_row = 0

    def begin(self) -> None:
        """Note that a round begins."""
        self.begun += 1

    def succeed(self, hurry: bool, whole: bool) -> None:
        """Note that a round succeeded, the `whole` of it or the part before an end; in a `hurry` the next is due."""
        if whole:
            self.whole = self.begun
        if self.trouble:
            log.info("states are kept again")
        self.trouble = ""
        self._failed_in_a_row = 0
        self.due_s = 0.0 if hurry else time.monotonic() + self._interval_s

    def fail(self, error: Exception, hurry: bool) -> None:
        """Note that a round failed; logged when the reason is another than before. In a `hurry` the next is soon."""
        trouble = str(error) or type(error).__name__
        if trouble != self.trouble:
            log.error("states cannot be kept and stay in memory until they can: %s", trouble)
        self.trouble = trouble
        self.failures += 1
        self.due_s = time.monotonic() + min(
            self._retry_s * 2 ** (0 if hurry else self._failed_in_a_row), _LONGEST_WAIT_S
        )
        self._failed_in_a_row = min(self._failed_in_a_row + 1, 16)
