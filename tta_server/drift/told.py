"""What is known of a stream's drift, as people ask for it."""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from tta_server.drift.monitor import Monitor
from tta_server.drift.nulls import Null
from tta_server.drift.watch import Watch
from tta_server.telemetry.closed_sets import DRIFT_STATES, DriftScore

_MOST_CLASSES = 20
_MOST_LAYERS = 50
_DECADE = math.log(10)


def told(watch: Watch, monitor: Monitor) -> dict[str, Any]:
    """Return everything that is known of one stream, ready for JSON.

    Args:
        watch: What is known.
        monitor: By what it is watched.
    """
    return {
        "state": watch.state,
        "since": watch.since,
        "because": watch.because,
        "evidence_decades": watch.evidence.log / _DECADE,
        "evidence_of_warning": monitor.limits.warning / _DECADE,
        "evidence_of_drift": monitor.limits.drift / _DECADE,
        "window_rows": monitor.size,
        "images_waiting": len(watch.waiting),
        "windows_scored": watch.seen,
        "scores": _scores(watch.scores, monitor.known),
        "estimated_accuracy": {
            "source": watch.scores.get("estimated_accuracy"),
            "adapted": watch.learnt.measures.get("estimated_accuracy"),
        },
        "learnt": {
            "rows": watch.learnt.rows,
            "agreement": watch.learnt.measures.get("agreement"),
            "measures": dict(watch.learnt.measures),
            "scores": _scores(watch.learnt.scores, monitor.known_learnt),
            "layers": _layers(watch.learnt.layers),
        },
        "classes": _classes(watch, monitor),
        "history": list(_history(watch)),
    }


def _scores(scores: Mapping[DriftScore, float], known: Mapping[DriftScore, Null]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "value": value,
            "z": known[name].z(value) if name in known else None,
            "p": known[name].p(value) if name in known else None,
        }
        for name, value in scores.items()
    ]


def _layers(layers: Mapping[str, tuple[float, float]]) -> list[dict[str, Any]]:
    worst = sorted(layers.items(), key=lambda item: -item[1][0])[:_MOST_LAYERS]
    return [{"layer": path, "w2": w2, "kl_nats": kl} for path, (w2, kl) in worst]


def _classes(watch: Watch, monitor: Monitor) -> list[dict[str, Any]]:
    """Return the classes whose shares differ most from those of the source, these first."""
    if monitor.host is None or len(watch.shares) != len(monitor.host.histogram):
        return []
    usual = monitor.host.histogram.numpy()
    most = np.argsort(-np.abs(watch.shares - usual), kind="stable")[:_MOST_CLASSES]
    return [{"index": int(i), "share": float(watch.shares[i]), "source_share": float(usual[i])} for i in most]


def _history(watch: Watch) -> Iterable[dict[str, Any]]:
    for came_s, evidence, state, *scores in watch.windows.tolist():
        yield {
            "time": datetime.fromtimestamp(came_s, UTC).isoformat(timespec="milliseconds"),
            "state": DRIFT_STATES[int(state)],
            "evidence_decades": evidence / _DECADE,
            "scores": dict(zip(watch.names, scores, strict=True)),
        }
