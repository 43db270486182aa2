"""The metric families about the drift of streams."""

from collections.abc import Callable, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge

from tta_server.telemetry.closed_sets import (
    DRIFT_CAUSES,
    DRIFT_STATES,
    LEARNT_SCORES,
    DriftCause,
    DriftScore,
    DriftState,
)
from tta_server.telemetry.per_stream import OTHER, Flags, PerStream


class DriftSeries:
    """What is known of the drift of each stream; a reset takes it back with `state`, not by forgetting the series."""

    def __init__(self, registry: CollectorRegistry, model: str, label: Callable[[str], str]) -> None:
        """Register the families.

        Args:
            registry: Where.
            model: Value of the `model` label.
            label: From the name of a stream to the value of its label.
        """
        self._model, self._label = model, label
        self._shown: dict[str, DriftState] = {}
        two = ["model", "stream"]

        def gauge(name: str, text: str, *more: str) -> PerStream[Gauge]:
            return PerStream(Gauge(name, text, [*two, *more], registry=registry))

        self._state = Flags(
            Gauge(
                "tta_drift_state", "1 for the state that the stream's input is in.", [*two, "state"], registry=registry
            )
        )
        self._since = gauge(
            "tta_drift_since_timestamp_seconds",
            "When that state began: the first window or request that speaks for it.",
        )
        self._sigmas = gauge(
            "tta_drift_sigmas", "Score of the last window, in standard deviations of windows without drift.", "score"
        )
        self._evidence = gauge("tta_drift_evidence_decades", "Evidence of drift gathered so far, as a power of ten.")
        self._events = PerStream(
            Counter(
                "tta_drift_events",
                "Times that a stream began to drift, by what says so.",
                [*two, "cause"],
                registry=registry,
            )
        )
        self._accuracy = gauge(
            "tta_estimated_accuracy_ratio",
            "Accuracy as confidence and features suggest it; a collapse may raise it, so it never stands alone.",
            "variant",
        )
        self._agreement = gauge(
            "tta_source_agreement_ratio",
            "Share of the last learnt window that the stream and the frozen model answer alike.",
        )
        self._measured = (self._since, self._sigmas, self._evidence, self._accuracy, self._agreement)

    def open(self, stream: str) -> None:
        """Create the series of a stream: nothing is known yet."""
        labels = self._model, self._label(stream)
        for cause in DRIFT_CAUSES:
            self._events.labels(*labels, cause)
        self._shown.pop(stream, None)
        self.state(stream, "unknown")

    def close(self, stream: str) -> None:
        """Remove the series of a stream; where it shares them it is counted there no more."""
        self._shown.pop(stream, None)
        if self._label(stream) == OTHER:
            self._state.leave(self._model, OTHER, stream)
            return
        for family in (self._events, self._state, *self._measured):
            family.remove(self._model, stream)

    def unlearn(self, stream: str) -> None:
        """Remove what was measured of what a stream learns."""
        self._agreement.remove(self._model, stream)
        self._accuracy.remove(self._model, stream, "adapted")
        for name in LEARNT_SCORES:
            self._sigmas.remove(self._model, stream, name)

    def state(self, stream: str, now: DriftState) -> None:
        """Record the state; what was measured goes when nothing is known."""
        if self._shown.get(stream) == now:
            return
        self._shown[stream] = now
        for state in DRIFT_STATES:
            self._state.set(self._model, self._label(stream), stream, state == now, state)
        if now == "unknown":
            for family in self._measured:
                family.remove(self._model, stream)

    def since(self, stream: str, time: str) -> None:
        """Record when the state began: ISO 8601, or empty."""
        if time:
            self._set(self._since, stream, datetime.fromisoformat(time).timestamp())

    def began(self, stream: str, cause: DriftCause) -> None:
        """Count that a stream began to drift."""
        self._events.labels(self._model, self._label(stream), cause).inc()

    def scores(self, stream: str, sigmas: Mapping[DriftScore, float], decades: float) -> None:
        """Record how far the scores of the last window are off, and the evidence."""
        for name, value in sigmas.items():
            self._set(self._sigmas, stream, value, name)
        if sigmas:
            self._set(self._evidence, stream, decades)

    def beside(self, stream: str, agreement: float | None, source: float | None, adapted: float | None) -> None:
        """Record the agreement with the frozen model and the estimated accuracy of both, in [0, 1], where known."""
        if agreement is not None:
            self._set(self._agreement, stream, agreement)
        for variant, value in (("source", source), ("adapted", adapted)):
            if value is not None:
                self._set(self._accuracy, stream, value, variant)

    def _set(self, family: PerStream[Gauge], stream: str, value: float, *more: str) -> None:
        if (label := self._label(stream)) != OTHER:
            family.labels(self._model, label, *more).set(value)
