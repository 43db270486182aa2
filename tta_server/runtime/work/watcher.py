"""Watch the drift of streams: hand what the frozen model says of their images to the monitor, and tell what changes."""

from collections.abc import Mapping, Sequence

import numpy as np

from tta_server.drift.monitor import Monitor, Sights, rows_of
from tta_server.drift.scores import Yardstick
from tta_server.drift.watch import Rows, Watch
from tta_server.models import Output
from tta_server.runtime.job import Piece, Scores
from tta_server.storage.audit import now
from tta_server.streams.event import StreamEvent, Tell
from tta_server.streams.lesson import Lesson
from tta_server.streams.strange import StrangeImage
from tta_server.streams.stream import Stream
from tta_server.streams.window import Images


class Watcher:
    """Keep what is known of each stream's drift; the device thread alone may call it.

    An image counts once: if the frozen model answered it, then; else when its window is learnt from. What is seen of a
    domain counts for its stream.

    Attributes:
        monitor: What streams are watched by; None if they are not.
        keep: How many images of each stream are kept that raised the score.
    """

    def __init__(self, monitor: Monitor | None, tell: Tell, keep: int = 0) -> None:
        """Prepare.

        Args:
            monitor: What streams are watched by; None if they are not.
            tell: Hears of what changes.
            keep: How many images of each stream are kept that raised the score.
        """
        self.monitor = monitor
        self._tell = tell
        self.keep = keep if monitor and monitor.size else 0

    @property
    def yardstick(self) -> Yardstick | None:
        """What frozen answers are measured by as they are made; None if nobody asks."""
        return self.monitor.yardstick if self.monitor else None

    def answered(self, stream: Stream, parts: Sequence[tuple[Piece, Scores]]) -> None:
        """Take in what the frozen model has answered to parts of requests to a stream."""
        seen = [(part, scores) for part, scores in parts if scores.beside is not None]
        if self.monitor and seen:
            columns = zip(*(scores[1:] for _, scores in seen), strict=True)
            rows = rows_of(seen[0][1].probabilities.shape[1], *map(np.concatenate, columns))
            self._saw(self.monitor, stream, rows)
            if self.keep:
                images = [own[i : i + 1] for own in (part.images for part, _ in seen) for i in range(len(own))]
                self._look(self.monitor, stream, images, rows)

    def looked(self, stream: Stream, parts: Sequence[Piece], time: str) -> None:
        """Take in the parts that a request was told apart into at a time: those of domains look unlike the source."""
        if self.monitor:
            rows, away_rows = sum(part.rows for part in parts), sum(part.rows for part in parts if part.stream.parent)
            self._go_on(stream, self.monitor.looked(stream.drift, rows, away_rows, time))

    def learnt(self, lesson: Lesson, sights: Sights, measures: Mapping[str, float], seen: bool) -> None:
        """Take in a window that a step was tried on; see `Monitor.learnt`.

        Args:
            lesson: The window of a stream, or of a domain of one.
            sights: What was said of the window.
            measures: What the guard measured.
            seen: Whether the frozen model had answered its images.
        """
        if not self.monitor:
            return
        whose = lesson.stream.parent or lesson.stream
        whose.drift = self.monitor.learnt(whose.drift, sights, measures)
        if not seen:
            self.left(lesson, sights.frozen)
        at = lesson.stream.standing
        self._tell(StreamEvent(lesson.stream.name, "scored", at, at, lesson.stream))

    def left(self, lesson: Lesson, frozen: Output) -> None:
        """Take in what the frozen model says of a window of images that it had not answered."""
        if self.monitor and self.monitor.size:
            whose, rows = lesson.stream.parent or lesson.stream, self.monitor.rows_of(frozen)
            self._saw(self.monitor, whose, rows)
            if self.keep:
                self._look(self.monitor, whose, [row.image for row in lesson.rows], rows)

    def _look(self, monitor: Monitor, stream: Stream, images: Sequence[Images], rows: Rows) -> None:
        """Keep the last images, each (1, C, H, W), that look strange by their rows."""
        time = now()
        far = [
            StrangeImage(image.copy(), time, ratio)
            for image, ratio in zip(images, monitor.far(rows), strict=True)
            if ratio is not None
        ]
        stream.strange = (*stream.strange, *far)[-self.keep :]

    def _saw(self, monitor: Monitor, stream: Stream, rows: Rows) -> None:
        watch = stream.drift
        looked_at = stream.tells_apart or not (watch.astray or watch.settled)
        if looked_at and len(watch.waiting) + len(rows) < monitor.size:
            stream.drift = watch.waits(rows)  # as nearly always: nothing changes before a window is full
            return
        before, time = watch.seen, now()
        if not stream.tells_apart:
            watch = watch.unlooked(monitor.limits, time)
        self._go_on(stream, monitor.saw(watch, rows, time))
        if stream.drift.seen > before:
            at = stream.standing
            self._tell(StreamEvent(stream.name, "scored", at, at, stream))

    def _go_on(self, stream: Stream, watch: Watch) -> None:
        before, stream.drift = stream.drift, watch
        if watch.state == before.state or (before.state, watch.state) == ("unknown", "stable"):
            return
        reason, at = _said(before, watch), stream.standing
        extra = {"state": watch.state, "before": before.state, "because": watch.because, "since": watch.since}
        self._tell(StreamEvent(stream.name, "drift", at, at, stream, reason=reason, extra=extra))


def _said(before: Watch, watch: Watch) -> str:
    """Return in words what has changed."""
    if watch.state == "stable":
        return f"its input looks like the source's again, after {before.state} since {before.since}"
    begun = "drifts" if watch.state == "drift" else "may drift"
    because = "its images look unlike the source's" if watch.because == "style" else f"see {watch.because}"
    return f"its input {begun} since {watch.since}: {because}"
