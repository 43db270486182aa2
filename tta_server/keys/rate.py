"""How fast a key is used: so many images a second on average, a second's worth at once."""

import math
import threading


class Rate:
    """A bucket that fills steadily; a request may overdraw it, and the next ones wait until that is made good.

    So a request of any size can be made, and the average still holds.
    """

    def __init__(self, images_per_s: float) -> None:
        """Start full."""
        self._per_s = images_per_s
        self._most = max(1.0, images_per_s)
        self._left = self._most
        self._at_s: float | None = None
        self._lock = threading.Lock()

    def take(self, images: int, now_s: float) -> int:
        """Take so many images if one is left; return 0, or after how many seconds to try again.

        Args:
            images: How many.
            now_s: The time, on the monotonic clock.
        """
        with self._lock:
            passed_s = max(0.0, now_s - self._at_s) if self._at_s is not None else 0.0
            self._at_s = now_s
            self._left = min(self._most, self._left + passed_s * self._per_s)
            if self._left < 1:
                return math.ceil((1 - self._left) / self._per_s)
            self._left -= images
            return 0
