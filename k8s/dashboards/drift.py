"""The row about drift: which streams drift, since when, and what says so.

Each description tells someone who was just woken up what the panel means and what to do.
"""

from typing import Final

from k8s.dashboards.panels import Look, Panel, Query, bars, series
from k8s.dashboards.selectors import BY_STREAM, MODEL, RATE, STREAM

PANELS: Final[list[Panel]] = [
    series(
        "Drift of streams",
        "2 while a stream's input drifts, 1 while it may, 0 while it does not; nothing while too little was seen. GET "
        "/v1/streams/NAME/drift says since when and because of what. One stream: look at its images, its lens, its "
        "sensor. All at once: what they share, such as a rollout or the preprocessing. '_other': at least one of the "
        "streams beyond streams.max_labelled.",
        [
            Query(
                f'max by (stream, instance) (2 * (tta_drift_state{{{STREAM},state="drift"}} > bool 0) '
                f'or tta_drift_state{{{STREAM},state="warning"}} > bool 0 '
                f'or 0 * tta_drift_state{{{STREAM},state="stable"}})',
                BY_STREAM,
            )
        ],
        unit="none",
        look=Look(maximum=2),
    ),
    series(
        "Evidence of drift",
        "As a power of ten: at 5, with the default drift.false_alarm_windows, chance alone would get there once in "
        "100,000 windows, and the stream is in drift; at half of it, it is warned of. It falls slowly and starts anew "
        "once three windows in a row look ordinary.",
        [Query(f"tta_drift_evidence_decades{{{STREAM}}}", BY_STREAM)],
        unit="none",
    ),
    bars(
        "Scores farthest off",
        "In standard deviations of windows without drift, either way: the ten that are farthest off now. Scores named "
        "norm are of the last window that was learnt from, all others of what the frozen model saw last. Beyond 5 is "
        "no chance; prediction_divergence_ratio alone means other classes, which is no fault.",
        Query(f"topk(10, abs(tta_drift_sigmas{{{STREAM}}}))", "{{score}}: {{stream}} on {{instance}}"),
        unit="none",
    ),
    series(
        "Streams that began to drift",
        "Each minute, by what said so first: style is the look of the images, the rest are scores of what the frozen "
        "model answers. Again and again for the same stream: its input is at the edge, or changes between two kinds.",
        [Query(f"60 * sum by (cause) (rate(tta_drift_events_total{{{STREAM}}}{RATE}))", "{{cause}}")],
        unit="suffix: /min",
        look=Look(stacked=True),
    ),
    series(
        "Estimated accuracy",
        "Of the frozen model (source) on what it saw last, and of the stream (adapted) on what it learnt from last, as "
        "their confidence and features suggest. A hint and no measurement: a stream that collapses is sure of its "
        "answers, and this rises while its accuracy falls. Send labels to know. Nothing here: the bundle was made "
        "without labels.",
        [Query(f"tta_estimated_accuracy_ratio{{{STREAM}}}", f"{{{{variant}}}}: {BY_STREAM}")],
        unit="percentunit",
        look=Look(maximum=1),
    ),
    series(
        "Agreement with the frozen model",
        "Share of the last learnt window that the stream and the frozen model answer alike. Low is no fault where the "
        "frozen model is wrong: read it beside 'Balance' and the canary. Near 1 for a stream that drifts: what "
        "was learnt changes nothing.",
        [Query(f"tta_source_agreement_ratio{{{STREAM}}}", BY_STREAM)],
        unit="percentunit",
        look=Look(maximum=1),
    ),
    bars(
        "Time in drift",
        "How long each stream in drift has been so, in seconds, counted from the first request or window that speaks "
        "for it: the ten that have waited longest for somebody to look.",
        Query(
            f"topk(10, (time() - tta_drift_since_timestamp_seconds{{{MODEL}}}) "
            f'and on (model, stream, instance, job) (tta_drift_state{{{MODEL},state="drift"}} == 1))',
            BY_STREAM,
        ),
        unit="s",
    ),
]
