"""The rows about streams: how far their input drifts, and what adaptation makes of it.

Each description tells someone who was just woken up what the panel means and what to do.
"""

from typing import Final

from k8s.dashboards import drift
from k8s.dashboards.panels import Look, Query, Row, bars, series
from k8s.dashboards.selectors import BY_STREAM, MODEL, RATE, STREAM

_DRIFT: Final = [
    series(
        "Uncertainty (entropy)",
        "Recent mean entropy of the answers over ln K: 0 certain, 1 knows nothing. A rise that stays: the input "
        "drifts and adaptation does not keep up; look at the images. A fall to nearly 0 is no good news by itself: "
        "a collapsed stream answers one class with certainty. If its answers are wrong or all alike, reset it with "
        "POST /v1/streams/NAME/reset. A stream that falls silent keeps its last value.",
        [Query(f"tta_predictive_entropy_ratio{{{STREAM}}}", BY_STREAM)],
        unit="percentunit",
        look=Look(maximum=1),
    ),
    series(
        "Confidence",
        "Recent mean probability of the predicted class. It is not accuracy, and adaptation itself pushes it up, "
        "towards 1 also when it collapses. Read it beside the same stream in mode 'off', or label a few images.",
        [Query(f"tta_confidence_ratio{{{STREAM}}}", BY_STREAM)],
        unit="percentunit",
        look=Look(maximum=1),
    ),
    bars(
        "Rise of uncertainty in this time range",
        "Entropy now minus the stream's lowest in the time range: the ten that moved most, so the first to look "
        "at. There is no fixed threshold; it depends on the model. Widen the range to a quiet period to compare.",
        Query(
            f"topk(10, tta_predictive_entropy_ratio{{{STREAM}}} "
            f"- min_over_time(tta_predictive_entropy_ratio{{{STREAM}}}[$__range]))",
            BY_STREAM,
        ),
        unit="percentunit",
    ),
    bars(
        "Most uncertain streams",
        "The ten streams with the highest entropy now, whatever is chosen above. One alone: that camera or "
        "scanner. All at once: the model or its preprocessing, for example after a rollout.",
        Query(f"topk(10, tta_predictive_entropy_ratio{{{MODEL}}})", BY_STREAM),
        unit="percentunit",
    ),
]

_WINDOWS: Final = [
    series(
        "Windows by action",
        "Windows of images offered for learning, each minute, by what became of them. updated: learnt. skipped: "
        "the window is no fair sample, or nothing drifts. rejected: the step was refused, the stream is as before. "
        "restored: the stream was taken back. failed: the step raised an error, the log has it. dropped: the server "
        "was too busy. All 0: streams are 'off', or too few images come to fill a window.",
        [Query(f"60 * sum by (action) (rate(tta_batches_total{{{STREAM}}}{RATE}))", "{{action}}")],
        unit="suffix: /min",
        look=Look(
            stacked=True,
            colours={
                "updated": "green",
                "skipped": "blue",
                "rejected": "orange",
                "restored": "yellow",
                "failed": "red",
                "dropped": "purple",
            },
        ),
    ),
    series(
        "Share of windows not learnt from",
        "By stream. Near 1: the stream answers as it did before and no longer follows its input. The action "
        "beside tells why: skipped is no fault, rejected points to the stream's images, failed to an error, dropped "
        "to load.",
        [
            Query(
                f'sum by (stream, instance) (rate(tta_batches_total{{{STREAM},action!="updated"}}{RATE})) '
                f"/ (sum by (stream, instance) (rate(tta_batches_total{{{STREAM}}}{RATE})) > 0)",
                BY_STREAM,
            )
        ],
        unit="percentunit",
        look=Look(maximum=1),
    ),
    series(
        "Steps per minute",
        "Learning steps committed, by stream. It follows the traffic: images per minute over engine.window_rows. "
        "0 with traffic: see 'Windows by action'.",
        [
            Query(
                f'60 * sum by (stream, instance) (rate(tta_batches_total{{{STREAM},action="updated"}}{RATE}))',
                BY_STREAM,
            )
        ],
        unit="suffix: /min",
    ),
    series(
        "Images offered and learnt",
        "offered: by the requests of a stream; 0 with traffic: its mode is 'off', which is a choice and not a fault. "
        "learnt: by committed steps. The rest waits or was dropped: see 'Images dropped by reason'.",
        [
            Query(f"sum by (stream, instance) (rate(tta_{kind}_total{{{STREAM}}}{RATE}))", f"{name}: {BY_STREAM}")
            for kind, name in (("samples_offered", "offered"), ("samples_learnt", "learnt"))
        ],
        unit="suffix: images/s",
    ),
]

_STATES: Final = [
    series(
        "Version of the state",
        "Grows by one with every step and every restore; an answer names the version that gave it. Flat: nothing "
        "is learnt. Back to 0: the server was restarted without storage.url, or the stream was deleted.",
        [Query(f"tta_state_version{{{STREAM}}}", BY_STREAM)],
        unit="none",
    ),
]

DRIFT: Final = Row("Drift by stream", [*drift.PANELS, *_DRIFT])
ADAPTATION: Final = Row("Adaptation", [*_WINDOWS, *_STATES])
