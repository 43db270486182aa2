"""Traces of requests, by OpenTelemetry: one span each. Without the setting nothing of it is imported."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span

_TIMEOUT_S: Final = 2  # of one export, so that a collector that hangs holds no stop up for long

_span: ContextVar["Span | None"] = ContextVar("span", default=None)


class Tracer:
    """Open a span for each request, and hand finished ones over; nothing of what was sent is in them."""

    def __init__(self, processor: "SpanProcessor", share: float = 1.0) -> None:
        """Prepare.

        Args:
            processor: Takes finished spans.
            share: Of the requests that are traced if who asks does not say, in [0, 1].
        """
        from opentelemetry.propagate import extract
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace import SpanKind

        resource = Resource.create({SERVICE_NAME: "tta-server"})
        self._provider = TracerProvider(ParentBased(TraceIdRatioBased(share)), resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("tta_server")
        self._extract, self._kind = extract, SpanKind.SERVER

    @classmethod
    def to(cls, endpoint: str, share: float) -> "Tracer":
        """Return one that sends spans to a collector, by OTLP over HTTP, from a thread of its own.

        Args:
            endpoint: The collector's address, such as http://127.0.0.1:4318/v1/traces.
            share: Of the requests that are traced if who asks does not say, in [0, 1].

        Raises:
            ValueError: If OpenTelemetry is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ValueError("tracing.endpoint is set, which needs OpenTelemetry: install tta-server[otel]") from error
        return cls(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_TIMEOUT_S)), share)

    @contextmanager
    def request(self, name: str, headers: Iterable[tuple[bytes, bytes]]) -> Iterator["Span"]:
        """Open a span, which ends with the block.

        Args:
            name: Of the span.
            headers: Of the request; its `traceparent` says which trace the span belongs to.
        """
        carried = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers}
        with self._tracer.start_as_current_span(name, self._extract(carried), self._kind) as span:
            token = _span.set(span)
            try:
                yield span
            finally:
                _span.reset(token)

    def stop(self) -> None:
        """Hand over what is left, and end."""
        self._provider.shutdown()


def traced() -> bool:
    """Say whether the request at hand is traced."""
    return _span.get() is not None


def note(**said: str | float | bool | list[str]) -> None:
    """Write down what is known of the request at hand, if it is traced."""
    span = _span.get()
    if span is not None:
        span.set_attributes({f"tta.{key}": value for key, value in said.items()})
