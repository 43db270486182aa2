"""What happens to streams, as metrics; what happens to a domain counts for its stream."""

from tta_server.streams.event import StreamEvent
from tta_server.streams.stream import Stream
from tta_server.telemetry.metrics import Metrics


class Series:
    """Count every event of a stream, and show where the stream stands."""

    def __init__(self, metrics: Metrics) -> None:
        """Take where to report."""
        self._metrics = metrics

    def hear(self, event: StreamEvent) -> None:
        """Take one event into account; a stream that is not in memory has no series."""
        if event.subject:
            stream = event.subject.parent or event.subject
            self._count(event, stream)
            if event.logged:
                self._show(event, stream)

    def _count(self, event: StreamEvent, stream: Stream) -> None:
        series, words = self._metrics.stream, event.words
        if event.verdict:
            self._metrics.verdict(event.verdict.action, event.verdict.cause)
        if event.kind == "answered":
            series.answered(stream.name, event.rows, stream.entropy_ratio or 0.0, stream.confidence or 0.0)
            self._place(stream)
        if event.kind == "offered":
            series.offered(stream.name, event.rows)
        if event.kind == "commit":
            series.learnt(stream.name, event.rows)
        if words.window and event.rows:
            series.window(stream.name, stream.method.adapter.name, words.window)
        for reason, rows in event.dropped.items():
            series.dropped(stream.name, rows, reason)
        if words.domain:
            series.domain(stream.name, words.domain)
        if words.restored and event.cause:
            series.restored(stream.name, event.cause)

    def _show(self, event: StreamEvent, stream: Stream) -> None:
        series = self._metrics.stream
        if event.words.fresh:
            series.forget(stream.name)
        else:
            series.measures(stream.name, event.measures)
        series.state(stream.name, stream.version, stream.answers == "source", bool(stream.frozen))
        self._place(stream)

    def _place(self, stream: Stream) -> None:
        if found := stream.whereabouts:
            self._metrics.stream.place(stream.name, not found.current, found.distance, found.from_source)
