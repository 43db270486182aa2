"""Traces: a span for each request, in the trace of who asks; nothing of it without the setting."""

import asyncio
import re
import subprocess
import sys

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.tta_server.calls import INFER, body, glyph_images
from tta_server import app as wiring
from tta_server.app import build
from tta_server.models import load
from tta_server.settings_file import load_settings
from tta_server.telemetry.tracing import Tracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SETTING = {"tracing": {"endpoint": "http://127.0.0.1:1/v1/traces"}}


def spans_of(monkeypatch: pytest.MonkeyPatch, share: float = 1.0) -> list:
    """Return the spans of a prediction that is part of a trace, one that is not, and one that is refused."""
    kept = InMemorySpanExporter()
    monkeypatch.setattr(wiring.Tracer, "to", lambda _endpoint, _share: Tracer(SimpleSpanProcessor(kept), share))

    async def send() -> None:
        app = build(load_settings(None, SETTING), load("glyphs")).app
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as one:
            within = {"traceparent": f"00-{TRACE}-{SPAN}-01", "X-Stream-Id": "gate-7", "X-Request-Id": "r1"}
            (await one.post(INFER, content=body(glyph_images(0, 4)), headers=within)).raise_for_status()
            await one.get("/v1/streams/nobody-made-up-this")
            await one.get("/nowhere/at/all")

    asyncio.run(send())
    return list(kept.get_finished_spans())


def test_a_request_is_one_span_in_the_callers_trace_with_what_answered_it_and_how_long_that_took(monkeypatch):
    answered, unknown, nowhere = spans_of(monkeypatch)

    assert (f"{answered.context.trace_id:032x}", f"{answered.parent.span_id:016x}") == (TRACE, SPAN)
    said = dict(answered.attributes)
    assert answered.name == "POST /v2/models/{name}/infer"
    assert (said["tta.request_id"], said["tta.stream"], said["tta.version"]) == ("r1", "gate-7", 0)
    assert (said["tta.domains"], said["tta.images"], said["http.response.status_code"]) == (("source",), 4, 200)
    whole_s = (answered.end_time - answered.start_time) / 1e9
    assert said["tta.queue_s"] >= 0
    assert 0 < said["tta.device_s"] <= whole_s - said["tta.queue_s"]
    assert (unknown.name, unknown.attributes["http.response.status_code"]) == ("GET /v1/streams/{name}", 404)
    assert (nowhere.name, unknown.parent) == ("GET unknown", None)


def test_requests_that_name_no_trace_are_traced_in_their_share(monkeypatch):
    (only,) = spans_of(monkeypatch, share=0.0)

    assert f"{only.context.trace_id:032x}" == TRACE


def test_without_the_setting_no_sdk_of_opentelemetry_is_imported():
    heavy = ("opentelemetry.sdk", "opentelemetry.exporter")  # FastAPI itself imports the rest if it is there
    code = f"import sys, tta_server.app; print([name for name in sys.modules if name.startswith({heavy})])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)

    assert said.stdout.strip() == "[]"


def test_the_setting_without_the_extra_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)

    with pytest.raises(ValueError, match=re.escape("install tta-server[otel]")):
        Tracer.to("http://127.0.0.1:1/v1/traces", 1.0)
