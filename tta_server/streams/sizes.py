"""How much memory streams take, counted as they change: a data structure."""

from collections import Counter

from tta_server.streams.stream import Stream
from tta_server.telemetry.closed_sets import STATE_KINDS, StateKind


class Footprints:
    """Remember what each stream takes.

    Attributes:
        by_kind: Bytes of all streams.
    """

    def __init__(self) -> None:
        """Start with no stream."""
        self.by_kind: Counter[StateKind] = Counter(dict.fromkeys(STATE_KINDS, 0))
        self._of: dict[str, dict[StateKind, int]] = {}

    @property
    def total(self) -> int:
        """Bytes of all streams, of every kind."""
        return sum(self.by_kind.values())

    def measure(self, stream: Stream) -> None:
        """Count a stream anew."""
        now = stream.bytes  # first: whoever looks at the sums meanwhile would miss it
        self.forget(stream.name)
        self._of[stream.name] = now
        self.by_kind.update(self._of[stream.name])

    def forget(self, name: str) -> None:
        """Count a stream no more."""
        self.by_kind.subtract(self._of.pop(name, {}))
