"""What happens to streams, as metrics; what happens to a domain counts for its stream."""

import math

from tta_server.drift.monitor import Monitor
from tta_server.drift.watch import Learnt
from tta_server.streams.directory import Directory
from tta_server.streams.event import StreamEvent
from tta_server.streams.present import Present
from tta_server.streams.stream import Stream
from tta_server.telemetry.metrics import Metrics


class Series:
    """Count every event of a stream, and show where the stream stands.

    What was measured of what is learnt is shown while that learns and may answer; see `Present.learner`.
    """

    def __init__(self, metrics: Metrics, monitor: Monitor, streams: Directory) -> None:
        """Take where to report, by what streams are watched, and who says what answers."""
        self._metrics = metrics
        self._monitor = monitor
        self._streams = streams

    def hear(self, event: StreamEvent) -> None:
        """Take one event into account; a stream that is not in memory has no series."""
        if event.verdict:
            self._metrics.verdict(event.verdict.action, event.verdict.cause)
        stream = event.subject and (event.subject.parent or event.subject)
        now = self._streams.present(stream.name) if stream else None
        if not stream or not now or self._streams.in_memory(stream.name) is not stream:
            return
        self._count(event, stream)
        if event.logged or event.kind == "answered":
            self._show(event, stream, now)
        if event.kind in ("scored", "drift"):
            self._drift(event, stream, now)

    def _count(self, event: StreamEvent, stream: Stream) -> None:
        series, words = self._metrics.stream, event.words
        if event.kind == "answered":
            series.answered(stream.name, event.rows, stream.entropy_ratio or 0.0, stream.confidence or 0.0)
            series.drift.state(stream.name, stream.drift.state)
        if event.kind == "drift" and stream.drift.state == "drift" and stream.drift.because:
            series.drift.began(stream.name, stream.drift.because)
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

    def _show(self, event: StreamEvent, stream: Stream, now: Present) -> None:
        series, learner = self._metrics.stream, now.learner(stream.name)
        if event.words.fresh and event.subject is stream:
            series.forget(stream.name)
            self._drift(event, stream, now)
        if event.redirected:
            series.unlabel(stream.name)
        series.state(stream.name, stream.version, now.answers == "source", bool(now.frozen))
        series.learner(stream.name, learner)
        if event.stream == learner:
            if event.words.fresh:
                series.unlearn(stream.name)
            else:
                series.measures(stream.name, event.measures)
        self._place(stream)

    def _drift(self, event: StreamEvent, stream: Stream, now: Present) -> None:
        series, watch, monitor = self._metrics.stream.drift, stream.drift, self._monitor
        series.state(stream.name, watch.state)
        series.since(stream.name, watch.since)
        learnt = watch.learnt if event.stream == now.learner(stream.name) else Learnt()
        scores = watch.scores
        series.scores(stream.name, monitor.sigmas(scores, learnt.scores), math.log10(math.e) * watch.evidence.log)
        agreement, adapted = (learnt.measures.get(name) for name in ("agreement", "estimated_accuracy"))
        series.beside(stream.name, agreement, scores.get("estimated_accuracy"), adapted)

    def _place(self, stream: Stream) -> None:
        if found := stream.whereabouts:
            self._metrics.stream.place(stream.name, not found.current, found.distance, found.from_source)
