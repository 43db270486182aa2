"""The rows about safety: what the guard decides and why, and where streams are kept.

Each description tells someone who was just woken up what the panel means and what to do.
"""

from typing import Final

from k8s.dashboards.panels import Look, Query, Row, bars, series
from k8s.dashboards.selectors import BY_STREAM, MODEL, RATE, STREAM

_VERDICTS: Final = [
    series(
        "Verdicts by cause",
        "What the guard made of learning steps, each minute, and why. commit: learnt. reject: the step was dropped. "
        "rollback, reset: the stream was taken back. Causes are in order of trust; GET /v1/streams/NAME has the "
        "reason in words. Nothing here while images are answered: see 'Windows by action'.",
        [
            Query(
                f"60 * sum by (verdict, cause) (rate(tta_verdicts_total{{{MODEL}}}{RATE})) > 0",
                "{{verdict}}: {{cause}}",
            )
        ],
        unit="suffix: /min",
        look=Look(stacked=True),
    ),
    series(
        "Restores by cause",
        "Times that streams were taken back, each minute. operator: somebody asked for it. periodic: as "
        "streams.reset_every says. Anything else: the guard; after guard.freeze_after in a row it switches the "
        "stream off.",
        [Query(f"60 * sum by (cause) (rate(tta_restores_total{{{STREAM}}}{RATE}))", "{{cause}}")],
        unit="suffix: /min",
        look=Look(stacked=True),
    ),
    bars(
        "Restores in this time range",
        "How often each stream was taken back to an earlier state, by anyone. Again and again for one stream: "
        "adaptation harms it; set its mode to 'off' until you know why.",
        Query(f"topk(10, sum by (stream, instance) (increase(tta_restores_total{{{STREAM}}}[$__range])))", BY_STREAM),
        unit="none",
    ),
    series(
        "Streams that do not adapt",
        "answered by the source: at home, by the mode, or because the guard trusts the frozen model more; mostly no "
        "fault. frozen: the guard switched the stream, or the domain that it is in, off after several restores; read "
        "its last verdicts, then reset it or set its mode to try again.",
        [
            Query(f"sum(tta_serving_source{{{MODEL}}})", "answered by the source"),
            Query(f"sum(tta_stream_frozen{{{MODEL}}})", "frozen"),
        ],
        unit="none",
        look=Look(colours={"answered by the source": "blue", "frozen": "red"}),
    ),
]

_MEASURES: Final = [
    series(
        "Distance from the source",
        "How far the adapted parameters are from the source's, relative to their size. It grows and then levels off. "
        "At guard.max_distance they are drawn back: the stream learns too fast, lower the learning rate.",
        [Query(f"tta_parameter_distance_ratio{{{STREAM}}}", BY_STREAM)],
        unit="percentunit",
    ),
    series(
        "Size of the last step",
        "Relative to the size of the source's parameters. A single spike: an unusual window. Above guard.max_update "
        "the step is refused; often so: the learning rate is too high for this model.",
        [Query(f"tta_update_norm_ratio{{{STREAM}}}", BY_STREAM)],
        unit="percentunit",
    ),
    series(
        "Diversity of the answers",
        "1: all classes alike, 0: one class only. It depends on what the camera sees, so compare with the stream's "
        "own past. A fall without a change in front of the camera is how a collapse begins.",
        [Query(f"tta_prediction_diversity_ratio{{{STREAM}}}", BY_STREAM)],
        unit="percentunit",
        look=Look(maximum=1),
    ),
    series(
        "Accuracy on the canary",
        "Of the stream's state, on labelled images of the source and their corruptions: exact, but not about this "
        "stream's input. A fall beyond guard.canary_margin has the stream taken back. Read every now and then, so "
        "steps are normal.",
        [Query(f"tta_canary_accuracy_ratio{{{STREAM}}}", BY_STREAM)],
        unit="percentunit",
        look=Look(maximum=1),
    ),
    series(
        "Balance",
        "Where the stream and the frozen model differ, whose answers are sure and from features like the source's: 1 "
        "the stream's alone, -1 the frozen model's alone. Below guard.min_balance, times the share on which they "
        "differ, the frozen model answers, until it is above half of it. Long below 0: nothing is gained on this "
        "input.",
        [Query(f"tta_balance_ratio{{{STREAM}}}", BY_STREAM)],
        unit="none",
        look=Look(minimum=None),
    ),
    series(
        "Estimated gain",
        "Share of recent images on which only the stream's answer is credible, minus those on which only the frozen "
        "model's is, of all that they answer differently. An estimate: 'Accuracy on labelled images' is exact.",
        [Query(f"tta_estimated_gain_ratio{{{STREAM}}}", BY_STREAM)],
        unit="percentunit",
        look=Look(minimum=None),
    ),
    series(
        "Accuracy on labelled images",
        "Exact, on the images that labels came for with POST /v1/labels: answered is every answer; adapted and source "
        "are the stream and the frozen model on the same images, those where both are known; of the last 1,000 labels. "
        "adapted below source: 'Gain on labelled images' says whether it is chance; GET /v1/streams/NAME has the "
        "intervals.",
        [Query(f"tta_labelled_accuracy_ratio{{{STREAM}}}", "{{variant}}: {{stream}} on {{instance}}")],
        unit="percentunit",
        look=Look(maximum=1),
    ),
    series(
        "Gain on labelled images",
        "How much more often the stream was right than the frozen model on those images, in standard deviations of "
        "chance (McNemar's test). Between -3 and 3: too few labels to tell them apart. Below -3: adapting does harm; "
        "set the stream's mode to 'off'.",
        [Query(f"tta_labelled_gain_sigmas{{{STREAM}}}", BY_STREAM)],
        unit="none",
        look=Look(minimum=None),
    ),
    series(
        "Images dropped by reason",
        "Images offered for learning that were not learnt from. duplicate, constant, client_share: not let into the "
        "window. too_young: newer ones came before the window was old enough. skipped: the window was no fair sample. "
        "calm: nothing drifted (streams.adapt_when). rejected: the guard. overload: the server was busy. failed: an "
        "error, see the log.",
        [Query(f"sum by (reason) (rate(tta_samples_dropped_total{{{STREAM}}}{RATE}))", "{{reason}}")],
        unit="suffix: images/s",
        look=Look(stacked=True),
    ),
]

_KEPT: Final = [
    series(
        "Memory of streams",
        "By kind: states, earlier states, and images that wait to be learnt from. At streams.max_bytes the streams "
        "that are idle longest go to disk. Most of it window: traffic comes faster than it is learnt from.",
        [Query(f"sum by (kind) (tta_state_bytes{{{MODEL}}})", "{{kind}}")],
        unit="bytes",
        width=8,
        look=Look(stacked=True),
    ),
    series(
        "Streams on disk",
        "Streams that are on disk only, beside all streams. They come back with their next request, a little slower. "
        "Nearly all of them: raise streams.max_bytes if the machine has the memory. Any set aside: something about "
        "that stream failed, and it answers nobody; GET /v1/streams has the reason.",
        [
            Query(f"sum(tta_streams_on_disk{{{MODEL}}})", "on disk"),
            Query(f"sum(tta_streams_set_aside{{{MODEL}}})", "set aside"),
            Query(f"sum(tta_streams{{{MODEL}}})", "all"),
        ],
        unit="none",
        width=8,
    ),
    series(
        "Streams that move",
        "Moved to disk, back to memory, or deleted, each minute. evicted and revived both high: more streams are busy "
        "than fit into streams.max_bytes, and requests wait for the disk.",
        [Query(f"60 * sum by (move) (rate(tta_stream_moves_total{{{MODEL}}}{RATE}))", "{{move}}")],
        unit="suffix: /min",
        width=8,
    ),
    series(
        "State not yet on disk",
        "How long the oldest unwritten state has waited: what a crash now would cost. Above a few times "
        "storage.save_every_s: the disk is slow, full or gone; see 'Failed writes' and the log.",
        [Query(f"max by (instance) (tta_snapshot_age_seconds{{{MODEL}}})", "{{instance}}")],
        unit="s",
    ),
    series(
        "Failed writes",
        "Writes of states or of the audit log that failed, each minute. Answers and learning go on, and states wait "
        "in memory: mend the storage before the next restart. Lost: lines of the audit log, or kept windows, that were "
        "too many to wait.",
        [
            Query(f"60 * sum by (instance) (rate(tta_snapshot_failures_total{{{MODEL}}}{RATE}))", "{{instance}}"),
            Query(f"60 * sum by (instance) (rate(tta_records_lost_total{{{MODEL}}}{RATE}))", "lost on {{instance}}"),
        ],
        unit="suffix: /min",
    ),
]

SAFETY: Final = Row("Safety", [*_VERDICTS, *_MEASURES])
KEPT: Final = Row("Streams and storage", _KEPT)
