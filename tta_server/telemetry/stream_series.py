"""The metric families that tell streams apart.

Streams are named by callers, so at most `max_labelled` of them get series of their own and the rest share `OTHER`.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from tta_server.telemetry.closed_sets import (
    DOMAIN_OUTCOMES,
    DROP_REASONS,
    RESTORE_CAUSES,
    WINDOW_OUTCOMES,
    DomainOutcome,
    DropReason,
    RestoreCause,
    WindowOutcome,
)
from tta_server.telemetry.drift_series import DriftSeries
from tta_server.telemetry.per_stream import OTHER, Flags, PerStream

_MEASURES: Final = {
    "parameter_distance": (
        "tta_parameter_distance_ratio",
        "Distance of the adapted parameters from the source's, over the norm of the source's.",
    ),
    "update_norm": (
        "tta_update_norm_ratio",
        "Size of the last step, over the norm of the source's parameters.",
    ),
    "diversity": (
        "tta_prediction_diversity_ratio",
        "Entropy of the mean prediction over ln K: 1 all classes alike, 0 one class only.",
    ),
    "canary_accuracy": (
        "tta_canary_accuracy_ratio",
        "Accuracy of the stream's state on the labelled canary images and their corruptions.",
    ),
    "balance": (
        "tta_balance_ratio",
        "Whose answers are credible where the stream and the source differ: 1 the stream's alone, -1 the source's.",
    ),
    "estimated_gain": (
        "tta_estimated_gain_ratio",
        "Recent images on which the stream is credible and the source says otherwise, minus the reverse, as a share.",
    ),
}
"""Measures of a verdict that have a gauge: name of the measure to name and help of the family."""


class StreamSeries:
    """Every family with a label `stream`, for one model in one process.

    Attributes:
        drift: The families about drift.
        erased: Times that a stream was closed or forgotten: what was rendered before shows what is no more.
    """

    def __init__(self, registry: CollectorRegistry, model: str, max_labelled: int) -> None:
        """Register the families.

        Args:
            registry: Where.
            model: Value of the `model` label.
            max_labelled: Streams that get series of their own.
        """
        self._model = model
        self._max_labelled = max_labelled
        self._labelled: set[str] = set()
        self._resting: dict[str, None] = {}  # of those, what is on disk, the longest first
        self._learners: dict[str, str] = {}  # of those: whose measures are shown
        self.erased = 0
        two = ["model", "stream"]

        def counter(name: str, text: str, *more: str) -> PerStream[Counter]:
            return PerStream(Counter(name, text, [*two, *more], registry=registry))

        def gauge(name: str, text: str, *more: str) -> PerStream[Gauge]:
            return PerStream(Gauge(name, text, [*two, *more], registry=registry))

        def flags(name: str, text: str) -> Flags:
            return Flags(Gauge(name, text, two, registry=registry))

        self._unlabelled = Counter(
            "tta_stream_labels_dropped", "Streams that had to share '_other'.", ["model"], registry=registry
        ).labels(model)
        self._images = counter("tta_images", "Images answered.")
        self._offered = counter("tta_samples_offered", "Images offered for learning.")
        self._learnt = counter("tta_samples_learnt", "Images that committed steps learnt from.")
        self._dropped = counter("tta_samples_dropped", "Images offered but not learnt from, by reason.", "reason")
        self._batches = counter(
            "tta_batches", "Windows offered for learning, by what became of them.", "adapter", "action"
        )
        self._restores = counter("tta_restores", "Times a stream was taken back to an earlier state.", "cause")
        self._version = gauge(
            "tta_state_version", "Version of the stream's state; grows by one with every step and restore."
        )
        self._source = flags(
            "tta_serving_source",
            "1 while the frozen model answers: at home, by the mode, by the guard's choice or because it is frozen.",
        )
        self._frozen = flags(
            "tta_stream_frozen", "1 if the guard switched off the stream, or the domain that it is in, for good."
        )
        self._entropy = gauge(
            "tta_predictive_entropy_ratio",
            "Recent mean entropy over ln K: 0 certain, 1 uniform; falls also when a stream collapses.",
        )
        self._confidence = gauge("tta_confidence_ratio", "Recent mean probability of the predicted class.")
        self._at_home = flags("tta_stream_at_home", "1 if what the stream saw last looks like the source's images.")
        self._distance = gauge(
            "tta_domain_distance_ratio",
            "Squared distance of the last request from its domain, over what chance explains: about 1 if it belongs.",
        )
        self._from_source = gauge(
            "tta_source_distance_ratio", "Squared distance of the last request from the source, in the same unit."
        )
        self._domains = gauge("tta_stream_domains", "Domains that the stream keeps a state for.")
        self._domain_events = counter("tta_domain_events", "What happened to the stream's domains.", "event")
        self._measures = {name: gauge(family, text) for name, (family, text) in _MEASURES.items()}
        self._accuracy = gauge(
            "tta_labelled_accuracy_ratio",
            "Exact accuracy on images that labels came for: of every answer, and of both models on the same images.",
            "variant",
        )
        self._gain = gauge(
            "tta_labelled_gain_sigmas",
            "How much more often the stream was right than the frozen model, in standard deviations of chance.",
        )
        self.drift = DriftSeries(registry, model, self._label)
        self._families = [value for value in vars(self).values() if isinstance(value, PerStream)]
        self._families = [*self._families, *self._measures.values()]
        self._flags = [each for each in self._families if isinstance(each, Flags)]
        self._gauges = [each for each in self._families if isinstance(each.family, Gauge) and each is not self._domains]

    def open(self, stream: str, adapter: str) -> None:
        """Create the series of a stream, counters at 0; what comes from disk goes on with those that it has.

        Past the limit it has the place of one that is on disk, or shares the series of `_other`.
        """
        rested = stream in self._resting
        self._resting.pop(stream, None)
        if not rested and stream != OTHER and stream not in self._labelled:
            if len(self._labelled) >= self._max_labelled and self._resting:
                self.close(next(iter(self._resting)))
            if len(self._labelled) < self._max_labelled:
                self._drop(stream, ())  # it may have shared them before
                self.drift.close(stream)
                self._labelled.add(stream)
        if stream not in self._labelled:
            self._unlabelled.inc()
        labels = self._model, self._label(stream)
        for action in WINDOW_OUTCOMES:
            self._batches.labels(*labels, adapter, action)
        if rested:
            return
        for family in (self._images, self._offered, self._learnt):
            family.labels(*labels)
        self.state(stream, 0, as_source=False, frozen=False)
        for cause in RESTORE_CAUSES:
            self._restores.labels(*labels, cause)
        for outcome in DOMAIN_OUTCOMES:
            self._domain_events.labels(*labels, outcome)
        for reason in DROP_REASONS:
            self._dropped.labels(*labels, reason)
        self.drift.open(stream)

    def rest(self, stream: str) -> None:
        """Keep the series of a stream that goes to disk, until another wants their place: what was counted, was."""
        if stream in self._labelled:
            self._resting[stream] = None

    def close(self, stream: str) -> None:
        """Remove the series of a stream; others may have its place."""
        self.erased += 1
        self._resting.pop(stream, None)
        self.drift.close(stream)
        self._drop(stream, self._families)
        self._labelled.discard(stream)
        self._learners.pop(stream, None)

    def forget(self, stream: str) -> None:
        """Remove what was measured of a stream: it starts again, and `state` says from where."""
        self.erased += 1
        self._drop(stream, self._gauges)

    def _drop(self, stream: str, families: Iterable[PerStream[Counter] | PerStream[Gauge]]) -> None:
        """Remove the series of a stream; where it shares them it is counted there no more."""
        if stream in self._labelled:
            for family in families:
                family.remove(self._model, stream)
        else:
            for flags in self._flags:
                flags.leave(self._model, OTHER, stream)

    def answered(self, stream: str, rows: int, entropy_ratio: float, confidence: float) -> None:
        """Count answered images, and record the stream's recent entropy (over ln K) and confidence, both in [0, 1]."""
        self._images.labels(self._model, self._label(stream)).inc(rows)
        self._set(self._entropy, stream, entropy_ratio)
        self._set(self._confidence, stream, confidence)

    def offered(self, stream: str, rows: int) -> None:
        """Count images offered for learning."""
        self._offered.labels(self._model, self._label(stream)).inc(rows)

    def learnt(self, stream: str, rows: int) -> None:
        """Count images that a committed step learnt from."""
        self._learnt.labels(self._model, self._label(stream)).inc(rows)

    def dropped(self, stream: str, rows: int, reason: DropReason) -> None:
        """Count images that were offered but not learnt from."""
        self._dropped.labels(self._model, self._label(stream), reason).inc(rows)

    def window(self, stream: str, adapter: str, action: WindowOutcome) -> None:
        """Count what became of a window."""
        self._batches.labels(self._model, self._label(stream), adapter, action).inc()

    def restored(self, stream: str, cause: RestoreCause) -> None:
        """Count that a stream was taken back."""
        self._restores.labels(self._model, self._label(stream), cause).inc()

    def state(self, stream: str, version: int, as_source: bool, frozen: bool) -> None:
        """Record which state a stream has, whether the source answers for it, and whether it was switched off."""
        self._set(self._version, stream, version)
        for flags, so in ((self._source, as_source), (self._frozen, frozen)):
            flags.set(self._model, self._label(stream), stream, so)

    def place(self, stream: str, at_home: bool, distance: float | None, from_source: float | None) -> None:
        """Record where a stream is, and how far what it saw last lies from there and from the source, if known."""
        self._at_home.set(self._model, self._label(stream), stream, at_home)
        for family, value in ((self._distance, distance), (self._from_source, from_source)):
            if value is not None:
                self._set(family, stream, value)

    def domains(self, stream: str, count: int) -> None:
        """Record how many domains a stream has."""
        self._set(self._domains, stream, count)

    def domain(self, stream: str, outcome: DomainOutcome) -> None:
        """Count what happened to a domain."""
        self._domain_events.labels(self._model, self._label(stream), outcome).inc()

    def learner(self, stream: str, name: str) -> None:
        """Say whose measures are shown: the stream's, a domain's or, if it is empty, nobody's; others' go."""
        if stream in self._labelled and self._learners.get(stream, name) != name:
            self.unlearn(stream)
        if stream in self._labelled:
            self._learners[stream] = name

    def unlearn(self, stream: str) -> None:
        """Remove what was measured of what a stream learns."""
        for family in self._measures.values():
            family.remove(self._model, stream)
        self.drift.unlearn(stream)

    def measures(self, stream: str, measures: Mapping[str, float]) -> None:
        """Record the guard's measures that have a gauge."""
        for name in measures.keys() & self._measures.keys():
            self._set(self._measures[name], stream, measures[name])

    def accuracy(self, stream: str, found: Mapping[str, float], gain_sigmas: float | None) -> None:
        """Record the exact accuracy on labelled images, by variant, and what the stream gains; see `Ledger`."""
        for variant, value in found.items():
            self._set(self._accuracy, stream, value, variant)
        if gain_sigmas is not None:
            self._set(self._gain, stream, gain_sigmas)

    def unlabel(self, stream: str) -> None:
        """Remove what labels said of a stream."""
        for family in (self._accuracy, self._gain):
            family.remove(self._model, stream)

    def _set(self, family: PerStream[Gauge], stream: str, value: float, *more: str) -> None:
        if stream in self._labelled:
            family.labels(self._model, stream, *more).set(value)

    def _label(self, stream: str) -> str:
        return stream if stream in self._labelled else OTHER
