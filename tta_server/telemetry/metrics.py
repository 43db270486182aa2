"""Every metric family that the server exports, and the rules that keep their number bounded.

Streams are named by callers, so at most `max_labelled` of them get series of their own and the rest share `_other`;
no histogram carries a stream, and every other label comes from a closed set below.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

Outcome = Literal["ok", "rejected", "overloaded", "error"]
Action = Literal["updated", "rejected", "failed", "dropped"]
Stage = Literal["decode", "queue", "forward", "adapt"]

OUTCOMES: Final[tuple[Outcome, ...]] = ("ok", "rejected", "overloaded", "error")
ACTIONS: Final[tuple[Action, ...]] = ("updated", "rejected", "failed", "dropped")
STAGES: Final[tuple[Stage, ...]] = ("decode", "queue", "forward", "adapt")
OTHER: Final = "_other"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one model in one process."""

    def __init__(self, model: str, adapter: str, max_labelled: int = 100) -> None:
        """Register every family and start the closed sets at 0, so that rates work from the first scrape.

        Args:
            model: Value of the `model` label.
            adapter: Value of the `adapter` label.
            max_labelled: Streams that get series of their own.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._model = model
        self._adapter = adapter
        self._max_labelled = max_labelled
        self._labelled: set[str] = set()
        one = ["model"]
        two = ["model", "stream"]
        requests = Counter(
            "tta_requests", "Requests for predictions, by how they ended.", [*one, "outcome"], registry=registry
        )
        self._requests = {outcome: requests.labels(model, outcome) for outcome in OUTCOMES}
        self._duration = Histogram(
            "tta_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            one,
            buckets=_SECONDS,
            registry=registry,
        ).labels(model)
        stages = Histogram(
            "tta_stage_duration_seconds",
            "Time in one stage: decode and queue per request, forward and adapt per batch.",
            [*one, "stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = {stage: stages.labels(model, stage) for stage in STAGES}
        self._images = Counter("tta_images", "Images answered.", two, registry=registry)
        self._rows = Histogram(
            "tta_batch_size_images", "Images in one forward.", one, buckets=_ROWS, registry=registry
        ).labels(model)
        self._queue = Gauge("tta_queue_depth_images", "Images waiting for the device.", one, registry=registry).labels(
            model
        )
        self._streams = Gauge("tta_streams", "Streams held in memory.", one, registry=registry).labels(model)
        self._unlabelled = Counter(
            "tta_stream_labels_dropped", "Streams that had to share the series '_other'.", one, registry=registry
        ).labels(model)
        self._entropy = Gauge(
            "tta_predictive_entropy_ratio",
            "Recent mean entropy over ln K: 0 certain, 1 uniform; falls also when a stream collapses.",
            two,
            registry=registry,
        )
        self._confidence = Gauge(
            "tta_confidence_ratio", "Recent mean probability of the predicted class.", two, registry=registry
        )
        self._offered = Counter("tta_samples_offered", "Images offered for learning.", two, registry=registry)
        self._batches = Counter(
            "tta_batches",
            "Windows offered for learning, by what became of them.",
            [*two, "adapter", "action"],
            registry=registry,
        )
        self._version = Gauge(
            "tta_state_version",
            "Version of the stream's state; grows by one with every step and reset.",
            two,
            registry=registry,
        )
        self._resets = Counter("tta_resets", "Resets of the stream's state to the source.", two, registry=registry)
        Info("tta_build", "What is running.", registry=registry).info({"model": model, "adapter": adapter})

    def request(self, outcome: Outcome, duration_s: float) -> None:
        """Count one finished request."""
        self._requests[outcome].inc()
        self._duration.observe(duration_s)

    def stage(self, stage: Stage, duration_s: float) -> None:
        """Record the time that one stage took."""
        self._stages[stage].observe(duration_s)

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Record the time that the block takes, also when it fails."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.stage(stage, time.perf_counter() - started_s)

    def batch(self, rows: int) -> None:
        """Count one forward over `rows` images."""
        self._rows.observe(rows)

    def queue(self, rows: int) -> None:
        """Record how many images wait."""
        self._queue.set(rows)

    def streams(self, count: int) -> None:
        """Record how many streams there are."""
        self._streams.set(count)

    def open_stream(self, stream: str) -> None:
        """Create the series of a new stream, all at 0; past the limit it shares those of `_other`."""
        if stream != OTHER and len(self._labelled) < self._max_labelled:
            self._labelled.add(stream)
        else:
            self._unlabelled.inc()
        label = self._label(stream)
        self._images.labels(self._model, label)
        self._offered.labels(self._model, label)
        self._resets.labels(self._model, label)
        self._version.labels(self._model, label)
        for action in ACTIONS:
            self._batches.labels(self._model, label, self._adapter, action)

    def answered(self, stream: str, rows: int, entropy_ratio: float, confidence: float) -> None:
        """Count answered images, and record the stream's recent entropy (over ln K) and confidence, both in [0, 1]."""
        self._images.labels(self._model, self._label(stream)).inc(rows)
        self._entropy.labels(self._model, self._label(stream)).set(entropy_ratio)
        self._confidence.labels(self._model, self._label(stream)).set(confidence)

    def offered(self, stream: str, rows: int) -> None:
        """Count images offered for learning."""
        self._offered.labels(self._model, self._label(stream)).inc(rows)

    def step(self, stream: str, action: Action, version: int) -> None:
        """Count what became of a window, and record the version of the state after it."""
        self._batches.labels(self._model, self._label(stream), self._adapter, action).inc()
        self._version.labels(self._model, self._label(stream)).set(version)

    def reset(self, stream: str, version: int) -> None:
        """Count a reset, and record the version of the state after it."""
        self._resets.labels(self._model, self._label(stream)).inc()
        self._version.labels(self._model, self._label(stream)).set(version)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _label(self, stream: str) -> str:
        return stream if stream in self._labelled else OTHER
