"""When the next step is taken: answers go before learning. No thread and no clock in here."""

import math

_LONGEST_LULL_S = 0.05
_ASKED_S = 1.0


class Rest:
    """What steps have cost, and who is expected back.

    While requests wait, or callers are expected back that were answered together, learning rests after each step, so
    that steps take no more than a share of the time.
    """

    def __init__(self, share: float) -> None:
        """Start rested.

        Args:
            share: Of the time, what steps may take while requests wait, 0 to 1: 0 none at all, 1 all that they want.
        """
        self._share = share
        self._rested_s = 0.0 if share else math.inf
        self._answered_s = -math.inf
        self._quiet_s = 0.0  # from when nobody is expected, unless requests wait

    def took(self, began_s: float, ended_s: float) -> None:
        """Remember a step; a long one is followed by a long rest, so that the share holds for any network."""
        if self._share:
            self._rested_s = ended_s + (ended_s - began_s) * (1 / self._share - 1)

    def answered(self, requests: int, began_s: float, ended_s: float) -> None:
        """Remember a group of answers: who asked together comes back together, if soon; a load, they ask again sooner.

        They are expected for as long as their answers took, at most 50 ms.
        """
        self._answered_s = ended_s
        if requests > 1:
            self._quiet_s = ended_s + min(_LONGEST_LULL_S, ended_s - began_s)

    def asked(self, now_s: float) -> bool:
        """Say whether somebody was answered in the last second."""
        return now_s < self._answered_s + _ASKED_S

    def turn_s(self, due_s: float, waits: bool) -> float:
        """Return from when a window may be learnt from that is due at `due_s`; `waits` says whether requests do."""
        return max(due_s, min(math.inf if waits else self._quiet_s, self._rested_s))
