"""A metric family whose series come and go with streams."""

from typing import Final, Generic, TypeVar

from prometheus_client import Counter, Gauge

OTHER: Final = "_other"
"""Label of the streams that have no series of their own: their counters are added up, what is so of them is counted,
and other numbers are not shown, for of several streams together they say nothing."""

Family = TypeVar("Family", Counter, Gauge)


class PerStream(Generic[Family]):
    """A family with the labels `model`, `stream` and perhaps more, that knows which series each stream has.

    The library looks at every series of a family to remove some: 4 ms of the device thread for one stream of a hundred.

    Attributes:
        family: The library's.
    """

    def __init__(self, family: Family) -> None:
        """Begin without series."""
        self.family: Family = family
        self._made: dict[tuple[str, str], dict[tuple[str, ...], Family]] = {}

    def labels(self, model: str, stream: str, *more: str) -> Family:
        """Return a series of a stream; it is there from then on."""
        own = self._made.setdefault((model, stream), {})
        if more not in own:
            own[more] = self.family.labels(model, stream, *more)
        return own[more]

    def remove(self, model: str, stream: str, *more: str) -> None:
        """Remove every series of a stream, or that one alone whose other labels are `more`."""
        own = self._made.get((model, stream), {})
        for each in [more] if more else list(own):
            if own.pop(each, None):
                self.family.remove(model, stream, *each)
        if not own:
            self._made.pop((model, stream), None)


class Flags(PerStream[Gauge]):
    """A family that is 1 where something is so of a stream, else 0; of those that share a label it says how many."""

    def __init__(self, family: Gauge) -> None:
        """Begin without series."""
        super().__init__(family)
        self._so: dict[tuple[str, str], dict[tuple[str, ...], set[str]]] = {}

    def set(self, model: str, label: str, stream: str, so: bool, *more: str) -> None:
        """Say whether it is so of a stream with this label; what is shown already, as it mostly is, is left alone."""
        streams = self._so.get((model, label), {}).get(more)
        if streams is None:
            streams = self._so.setdefault((model, label), {})[more] = set()
        elif (stream in streams) == so:
            return
        (streams.add if so else streams.discard)(stream)
        self.labels(model, label, *more).set(len(streams))

    def leave(self, model: str, label: str, stream: str) -> None:
        """Count a stream no more among those that share a label."""
        for more, streams in self._so.get((model, label), {}).items():
            streams.discard(stream)
            self.labels(model, label, *more).set(len(streams))

    def remove(self, model: str, stream: str, *more: str) -> None:
        """Remove series of a stream that has its own."""
        super().remove(model, stream, *more)
        self._so.pop((model, stream), None)
