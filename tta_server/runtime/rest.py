"""How long learning rests while requests wait, so that it takes no more than a share of the device's time."""


class Rest:
    """What steps have cost, and until when the next one rests for that. No thread and no clock in here."""

    def __init__(self, share: float) -> None:
        """Start rested.

        Args:
            share: Of the time, what steps may take while requests wait, 0 to 1: 0 none at all, 1 all that they want.
        """
        self._share = share
        self._rested_s = 0.0 if share else float("inf")

    @property
    def rested_s(self) -> float:
        """From when a step may be taken although requests wait, on the clock of `took`."""
        return self._rested_s

    def took(self, began_s: float, ended_s: float) -> None:
        """Remember a step; a long one is followed by a long rest, so that the share holds for any network."""
        if self._share:
            self._rested_s = ended_s + (ended_s - began_s) * (1 / self._share - 1)
