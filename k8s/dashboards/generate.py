"""Write the Grafana dashboard: `python -m k8s.dashboards.generate`, from the root of the repository.

The JSON is committed, so that it can be imported as it is; a test makes it again and compares.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from k8s.dashboards import domains, safety, servers, streams
from k8s.dashboards.panels import DATASOURCE, Json, place
from k8s.dashboards.selectors import MODEL, NAMESPACE, OURS, STREAM

OUTPUT = Path(__file__).with_name("tta-server.json")


def dashboard() -> Json:
    """Return the dashboard in Grafana's classic schema, which versions 10.1 and later import."""
    return {
        "id": None,
        "uid": "tta-server",
        "title": "Test-time adaptation server",
        "description": "Drift of the input by stream, what adaptation makes of it, and how the servers answer.",
        "tags": ["tta-server", "drift", "machine-learning"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": _variables()},
        "annotations": {"list": _annotations()},
        "panels": place(
            [
                servers.FLEET,
                streams.DRIFT,
                domains.DOMAINS,
                streams.ADAPTATION,
                safety.SAFETY,
                safety.KEPT,
                servers.SERVING,
            ]
        ),
    }


def _variables() -> list[Json]:
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1},
        _labels("namespace", "Namespace", "label_values(tta_build_info, namespace)", every=".*"),
        _labels("model", "Model", f"label_values(tta_build_info{{{NAMESPACE}}}, model)"),
        _labels("stream", "Stream", f"label_values(tta_state_version{{{MODEL}}}, stream)"),
    ]


def _labels(name: str, label: str, query: str, every: str = ".+") -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # whenever the time range changes: streams come and go
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": every,  # also series that come after the page was opened
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _annotations() -> list[Json]:
    # A fixed range, of two scrapes at Prometheus' default of a minute: an event is marked once or twice, never missed.
    return [
        _events(
            "Restores",
            "orange",
            f"sum by (stream, cause) (increase(tta_restores_total{{{STREAM}}}[2m])) > 0",
            "{{stream}} ({{cause}})",
        ),
        _events(
            "Drift",
            "red",
            f"sum by (stream, cause) (increase(tta_drift_events_total{{{STREAM}}}[2m])) > 0",
            "{{stream}} ({{cause}})",
        ),
        _events(
            "Domains",
            "green",
            f'sum by (stream, event) (increase(tta_domain_events_total{{{STREAM},event!="recalled"}}[2m])) > 0',
            "{{stream}} ({{event}})",
        ),
        _events("Starts", "blue", f"(time() - process_start_time_seconds {OURS}) < 120", "{{instance}}"),
    ]


def _events(name: str, colour: str, expr: str, title: str) -> Json:
    return {
        "name": name,
        "enable": True,
        "iconColor": colour,
        "datasource": DATASOURCE,
        "expr": expr,
        "titleFormat": f"{name}: {title}",
        "step": "60s",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the dashboard to the path that is given, or to its place in the repository."""
    parser = argparse.ArgumentParser(prog="k8s.dashboards.generate", description="Write the Grafana dashboard.")
    parser.add_argument("path", nargs="?", type=Path, default=OUTPUT, help="where to (default: beside this file)")
    path: Path = parser.parse_args(arguments).path
    path.write_text(json.dumps(dashboard(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
