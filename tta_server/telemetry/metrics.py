"""Every metric family that the server exports, and the rules that keep their number bounded.

No histogram carries a stream, families with one are in `stream_series`, and every other label comes from a closed set.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from tta_server.telemetry.closed_sets import (
    ACTIONS,
    CAUSES,
    MOVES,
    REQUEST_OUTCOMES,
    STAGES,
    STATE_KINDS,
    TURNED_AWAY,
    WEBHOOK_OUTCOMES,
    Action,
    Cause,
    Move,
    RequestOutcome,
    Stage,
    StateKind,
    TurnedAway,
    WebhookOutcome,
)
from tta_server.telemetry.stream_series import StreamSeries

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SUMMED = ("request_duration_seconds", "stage_duration_seconds", "batch_size_images")
_KEEP_S = 1.0
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one model in one process.

    Attributes:
        stream: The families that tell streams apart.
        answered_s: When a request was answered last, in seconds since 1970; 0 if none was.
    """

    def __init__(self, model: str, adapter: str, max_labelled: int = 100) -> None:
        """Register every family and start the closed sets at 0, so that rates work from the first scrape.

        Args:
            model: Value of the `model` label.
            adapter: The adapter that streams use unless they were given another.
            max_labelled: Streams that get series of their own.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self.stream = StreamSeries(registry, model, max_labelled)
        self.answered_s = 0.0
        self._model = model
        self._looks: list[Callable[[], None]] = []
        self._requests_and_stages(registry)
        one = ["model"]
        self._ready = Gauge(
            "tta_ready", "1 if a good request would be answered, as /v2/health/ready says.", one, registry=registry
        ).labels(model)
        self._bundle = Gauge(
            "tta_reference_bundle", "1 if the model has a reference bundle, without which hardly anything is judged.",
            one, registry=registry,
        ).labels(model)  # fmt: skip
        self._queue = Gauge("tta_queue_depth_images", "Images waiting for the device.", one, registry=registry).labels(
            model
        )
        self._streams = Gauge("tta_streams", "Streams, in memory or on disk.", one, registry=registry).labels(model)
        self._domains = Gauge("tta_domains", "Domains that streams keep a state for.", one, registry=registry).labels(
            model
        )
        self._parked = Gauge("tta_streams_on_disk", "Streams that are on disk only.", one, registry=registry).labels(
            model
        )
        self._aside = Gauge(
            "tta_streams_set_aside",
            "Streams that cannot go on; each is listed with the reason.",
            one,
            registry=registry,
        ).labels(model)
        moves = Counter(
            "tta_stream_moves", "Streams moved to disk, back to memory, or deleted.", [*one, "move"], registry=registry
        )
        self._moves = {move: moves.labels(model, move) for move in MOVES}
        held = Gauge("tta_state_bytes", "Memory of all streams, by kind.", [*one, "kind"], registry=registry)
        self._bytes = {kind: held.labels(model, kind) for kind in STATE_KINDS}
        verdicts = Counter(
            "tta_verdicts",
            "The guard's verdicts on steps, with their cause.",
            [*one, "verdict", "cause"],
            registry=registry,
        )
        self._verdicts = {
            (verdict, cause): verdicts.labels(model, verdict, cause) for verdict in ACTIONS for cause in CAUSES
        }
        self._storage(registry)
        Info("tta_build", "What is running.", registry=registry).info({"model": model, "adapter": adapter})

    def _requests_and_stages(self, registry: CollectorRegistry) -> None:
        model, one = self._model, ["model"]
        requests = Counter(
            "tta_requests", "Requests for predictions, by how they ended.", [*one, "outcome"], registry=registry
        )
        self._requests = {outcome: requests.labels(model, outcome) for outcome in REQUEST_OUTCOMES}
        refusals = Counter(
            "tta_refusals", "What was turned away at the door, by reason.", [*one, "reason"], registry=registry
        )
        self._refusals = {reason: refusals.labels(model, reason) for reason in TURNED_AWAY}
        self._duration = Histogram(
            "tta_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            one,
            buckets=_SECONDS,
            registry=registry,
        ).labels(model)
        stages = Histogram(
            "tta_stage_duration_seconds",
            "Time in one stage: decode and queue per request, forward, judge and adapt per batch.",
            [*one, "stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = {stage: stages.labels(model, stage) for stage in STAGES}
        self._rows = Histogram(
            "tta_batch_size_images", "Images that one forward answered.", one, buckets=_ROWS, registry=registry
        ).labels(model)

    def _storage(self, registry: CollectorRegistry) -> None:
        one = ["model"]
        self._snapshot_age = Gauge(
            "tta_snapshot_age_seconds", "Time since the newest state was written, while newer ones wait to be.",
            one, registry=registry,
        ).labels(self._model)  # fmt: skip
        self._snapshot_failures = Counter(
            "tta_snapshot_failures", "Writes of states or audit lines that failed.", one, registry=registry
        ).labels(self._model)
        self._lost = Counter(
            "tta_records_lost", "Audit lines and kept windows given up while the disk failed.", one, registry=registry
        ).labels(self._model)
        self._failures = self._given_up = 0
        webhooks = Counter(
            "tta_webhooks", "Messages to webhooks.url, by what became of them.", [*one, "outcome"], registry=registry
        )
        self._webhooks = {outcome: webhooks.labels(self._model, outcome) for outcome in WEBHOOK_OUTCOMES}

    def totals(self) -> dict[tuple[str, str], float]:
        """Return counts and sums of requests, stages (seconds) and forwards, by sample and by outcome or stage."""
        wanted = [
            f"tta_{name}"
            for name in ("requests_total", *(f"{each}_{what}" for each in _SUMMED for what in ("sum", "count")))
        ]
        found = self._registry.restricted_registry(wanted).collect()
        return {
            (sample.name, sample.labels.get("outcome") or sample.labels.get("stage") or ""): sample.value
            for family in found
            for sample in family.samples
        }

    def request(self, outcome: RequestOutcome, duration_s: float) -> None:
        """Count one finished request."""
        self._requests[outcome].inc()
        if outcome == "ok":
            self.answered_s = time.time()
        self._duration.observe(duration_s)

    def refused(self, reason: TurnedAway) -> None:
        """Count what was turned away at the door."""
        self._refusals[reason].inc()

    def stage(self, stage: Stage, duration_s: float) -> None:
        """Record the time that one stage took."""
        self._stages[stage].observe(duration_s)

    def timed(self, stage: Stage) -> AbstractContextManager[object]:
        """Record the time that the block takes, also when it fails."""
        return self._stages[stage].time()

    def batch(self, rows: int) -> None:
        """Count one forward that answered `rows` images."""
        self._rows.observe(rows)

    def ready(self, now: bool) -> None:
        """Record whether a good request would be answered."""
        self._ready.set(now)

    def bundle(self, loaded: bool) -> None:
        """Record whether the model has a reference bundle."""
        self._bundle.set(loaded)

    def queue(self, rows: int) -> None:
        """Record how many images wait."""
        self._queue.set(rows)

    def streams(
        self, count: int, on_disk: int, held: Mapping[StateKind, int], aside: int = 0, domains: int = 0
    ) -> None:
        """Record how many streams there are, how many of them only on disk or set aside, and what the rest takes."""
        self._domains.set(domains)
        self._aside.set(aside)
        self._streams.set(count)
        self._parked.set(on_disk)
        for kind in STATE_KINDS:
            self._bytes[kind].set(held[kind])

    def moved(self, move: Move) -> None:
        """Count a stream that went to disk, came back, or was deleted."""
        self._moves[move].inc()

    def verdict(self, verdict: Action, cause: Cause) -> None:
        """Count a verdict of the guard."""
        self._verdicts[verdict, cause].inc()

    def stored(self, age_s: float, failures: int, lost: int) -> None:
        """Record how far the disk is behind, how often writing to it failed since the start, and what was given up."""
        self._snapshot_age.set(age_s)
        self._snapshot_failures.inc(failures - self._failures)
        self._lost.inc(lost - self._given_up)
        self._failures, self._given_up = failures, lost

    def webhook(self, outcome: WebhookOutcome) -> None:
        """Count what became of a message to the configured address."""
        self._webhooks[outcome].inc()

    def on_render(self, look: Callable[[], None]) -> None:
        """Have `look` record what nobody tells by itself, each time before everything is rendered."""
        self._looks.append(look)

    def collect(self) -> Iterator[Metric]:
        """Yield every family of this model, as it is now."""
        for look in self._looks:
            look()
        yield from self._registry.collect()


def render(models: Iterable[Metrics]) -> bytes:
    """Return the metrics of several models and of the process in Prometheus' text format, each family once."""
    return generate_latest(_Together(models))


class Exposition:
    """What Prometheus reads, rendered at most once a second: it takes tens of milliseconds, and holds up all else.

    Once a stream was deleted or reset nothing older is given out.
    """

    def __init__(self, models: Callable[[], Sequence[Metrics]], clock: Callable[[], float] = time.monotonic) -> None:
        """Render nothing yet; `models` says whose metrics are asked for now."""
        self._models = models
        self._clock = clock
        self._lock = threading.Lock()
        self._text = b""
        self._made_s = -math.inf
        self._erased = 0

    def text(self, fresh: bool = False) -> bytes:
        """Return all metrics as Prometheus takes them; as they are now if `fresh`. Any thread may call it."""
        with self._lock:  # whoever comes meanwhile gets the same
            models = self._models()
            erased = sum(each.stream.erased for each in models)
            if fresh or erased != self._erased or self._clock() - self._made_s >= _KEEP_S:
                self._text, self._made_s, self._erased = render(models), self._clock(), erased
            return self._text


class _Together:
    """What the registries of several models hold, as if it were one."""

    def __init__(self, models: Iterable[Metrics]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        process, platform = ProcessCollector(registry=None), PlatformCollector(registry=None)
        families = {family.name: family for source in (process, platform) for family in source.collect()}
        for model in self._models:
            for family in model.collect():
                families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                families[family.name].samples.extend(family.samples)
        yield from families.values()
