"""The rows about servers: what runs, and how it answers.

Each description tells someone who was just woken up what the panel means and what to do.
"""

from typing import Final

from k8s.dashboards.panels import Look, Query, Row, heatmap, series, stat, table
from k8s.dashboards.selectors import MODEL, OURS, RATE

_NUMBERS: Final = [
    stat(
        "Servers",
        "Servers that Prometheus reads. 0: nothing is served or nothing is scraped. See whether the pods are "
        "ready, then whether the scrape target is up.",
        Query(f"count(group by (job, instance) (tta_build_info{{{MODEL}}})) or vector(0)"),
        unit="none",
        steps=((None, "red"), (1.0, "green")),
    ),
    stat(
        "Servers not ready",
        "Servers that say themselves that they cannot answer, with any chosen model: balancers send them nothing, so "
        "no error is seen. As many as there are: nobody is answered. /v2/health/ready of each says why.",
        Query(f"count(group by (job, instance) (tta_ready{{{MODEL}}} == 0)) or vector(0)"),
        unit="none",
        steps=((None, "green"), (1.0, "red")),
    ),
    stat(
        "Youngest server",
        "Time since the latest start of any server. Without storage.url a start makes its streams forget what they "
        "learnt: if this is younger than you expect, read the reason of the last restart in the pod's status and log.",
        Query(f"min(time() - process_start_time_seconds {OURS})"),
        unit="s",
        steps=((None, "orange"), (600.0, "text")),
    ),
    stat(
        "Streams",
        "Streams in memory or on disk, over all servers. One that has learnt stays until it is deleted; one that never "
        "did is erased once nobody asked for it in streams.expire_s, a day, and gives way earlier where a server has "
        "streams.max_streams. If none gives way a new one gets 429. Growth without end: a client makes up names, for "
        "example one for each request.",
        Query(f"sum(tta_streams{{{MODEL}}})"),
        unit="none",
    ),
    stat(
        "Images per second",
        "Images answered. 0 while clients send: look at 'Requests by outcome' for what they get instead.",
        Query(f"sum(rate(tta_images_total{{{MODEL}}}{RATE}))"),
        unit="suffix: images/s",
    ),
    stat(
        "Requests without an answer",
        "Share of requests that ended in an error, whoever's fault it was. 'Requests by outcome' tells which: "
        "rejected is the client's, overloaded is load, streams_full is a limit, error is ours.",
        Query(
            f'(sum(rate(tta_requests_total{{{MODEL},outcome!="ok"}}{RATE})) or vector(0)) '
            f"/ (sum(rate(tta_requests_total{{{MODEL}}}{RATE})) > 0)"
        ),
        unit="percentunit",
        steps=((None, "green"), (0.01, "orange"), (0.05, "red")),
        no_value="no requests",
    ),
    stat(
        "Streams without own series",
        "Streams past streams.max_labelled: they share the series '_other', which say how many of them are in drift, "
        "frozen or at home, and nothing else. Above 0: raise streams.max_labelled, or find the client that makes up "
        "names.",
        Query(f"sum(tta_stream_labels_dropped_total{{{MODEL}}})"),
        unit="none",
        steps=((None, "green"), (1.0, "orange")),
    ),
]

_DRIFT: Final = [
    stat(
        "Streams in drift",
        "Streams whose input drifts now. Any: 'Drift of streams' says which, and GET /v1/streams/NAME/drift since when "
        "and why.",
        Query(f'sum(tta_drift_state{{{MODEL},state="drift"}}) or vector(0)'),
        unit="none",
        steps=((None, "green"), (1.0, "orange")),
    ),
    stat(
        "Servers without a bundle",
        "Servers of which a chosen model has no reference bundle: nothing is told apart, no window is scored, and the "
        "guard judges numbers and distances only. Run tta-server calibrate and start them again.",
        Query(f"count(group by (job, instance) (tta_reference_bundle{{{MODEL}}} == 0)) or vector(0)"),
        unit="none",
        steps=((None, "green"), (1.0, "red")),
    ),
]

_PROCESSES: Final = [
    table(
        "What is running",
        "Model and adapter of each server. Two adapters of one model: a rollout is under way, or stuck.",
        Query(f"tta_build_info{{{MODEL}}}"),
        hidden=("__name__", "job"),
    ),
    series(
        "Memory",
        "Resident memory of each server. It grows with streams up to streams.max_bytes and then stays. Near the pod's "
        "limit: lower streams.max_bytes or raise the limit, before the kernel ends the process.",
        [Query(f"process_resident_memory_bytes {OURS}", "{{instance}}")],
        unit="bytes",
        width=8,
    ),
    series(
        "Processor time",
        "Cores that each server uses. Flat at the CPUs requested while the queue grows: the server is too small. "
        "Low while the queue grows: it waits for the GPU.",
        [Query(f"rate(process_cpu_seconds_total{RATE}) {OURS}", "{{instance}}")],
        unit="suffix: cores",
        width=8,
    ),
]

_DURATION: Final = f"sum by (le) (rate(tta_request_duration_seconds_bucket{{{MODEL}}}{RATE}))"
_REQUESTS: Final = [
    series(
        "Requests by outcome",
        "ok: answered. rejected (4xx): the client's mistake; the answer's text says which. overloaded (429): the "
        "queue is full. streams_full (429): there is no place for a new stream. error (5xx): our fault; the log "
        "has the reason.",
        [Query(f"sum by (outcome) (rate(tta_requests_total{{{MODEL}}}{RATE}))", "{{outcome}}")],
        unit="reqps",
        look=Look(
            stacked=True,
            colours={
                "ok": "green",
                "rejected": "orange",
                "overloaded": "purple",
                "streams_full": "yellow",
                "error": "red",
            },
        ),
    ),
    series(
        "Requests refused or failed",
        "The same without ok, so that few are not hidden by many. overloaded: send less, or add a GPU. "
        "streams_full: raise streams.max_streams. rejected from one moment on: a client was changed. error: read the "
        "log, and restart if readiness is lost. At the door: turned away before it was a request for predictions, of "
        "any kind; docs/security.md has the limits.",
        [
            Query(f'sum by (outcome) (rate(tta_requests_total{{{MODEL},outcome!="ok"}}{RATE}))', "{{outcome}}"),
            Query(f"sum by (reason) (rate(tta_refusals_total{{{MODEL}}}{RATE}))", "at the door: {{reason}}"),
        ],
        unit="reqps",
        look=Look(colours={"rejected": "orange", "overloaded": "purple", "streams_full": "yellow", "error": "red"}),
    ),
    series(
        "Latency",
        "From the first byte of a request to the last of its answer, refused ones included. p99 far above p50: "
        "requests wait for a learning step or behind large ones; 'Mean time in a stage' tells which.",
        [Query(f"histogram_quantile({q}, {_DURATION})", f"p{q[2:]:0<2}") for q in ("0.5", "0.95", "0.99")],
        unit="s",
    ),
    series(
        "Webhooks",
        "Messages to webhooks.url: sent, tried again, given up (failed) or dropped for lack of room. Any failed or "
        "dropped: somebody was not told of drift, a freeze or a restore; the log says what the receiver answered.",
        [Query(f"sum by (outcome) (rate(tta_webhooks_total{{{MODEL}}}{RATE}))", "{{outcome}}")],
        unit="reqps",
        look=Look(colours={"sent": "green", "retried": "orange", "failed": "red", "dropped": "purple"}),
    ),
    heatmap(
        "Latency distribution",
        "Requests by how long they took. Two bands: two kinds of requests, or answers before and after a learning "
        "step. Everything in the highest band: clients have given up; shed load.",
        Query(f"sum by (le) (increase(tta_request_duration_seconds_bucket{{{MODEL}}}{RATE}))", "{{le}}"),
        unit="s",
    ),
]

_ROWS_SEEN: Final = f"tta_batch_size_images_bucket{{{MODEL}}}{RATE}"
_DEVICE: Final = [
    series(
        "Mean time in a stage",
        "decode: bytes to pixels, grows with the size of images. queue: waiting for the device; grows first under "
        "load. forward: the model and the copies. adapt: one learning step; a request may wait for one at most.",
        [
            Query(
                f"sum by (stage) (rate(tta_stage_duration_seconds_sum{{{MODEL}}}{RATE})) "
                f"/ (sum by (stage) (rate(tta_stage_duration_seconds_count{{{MODEL}}}{RATE})) > 0)",
                "{{stage}}",
            )
        ],
        unit="s",
    ),
    series(
        "Images waiting",
        "Images in the queue of each model of a server. Over half of engine.max_queue_rows learning is dropped to "
        "answer faster; at all of it requests get 429. Never back to 0: more comes in than the device can do.",
        [Query(f"tta_queue_depth_images{{{MODEL}}}", "{{model}} on {{instance}}")],
        unit="none",
    ),
    series(
        "Images in a forward",
        "Mean and 95th percentile. 1 under load: requests of different streams cannot share a forward while they "
        "adapt, so have clients send several images a request, or raise engine.max_delay_ms.",
        [
            Query(
                f"sum(rate(tta_batch_size_images_sum{{{MODEL}}}{RATE})) "
                f"/ (sum(rate(tta_batch_size_images_count{{{MODEL}}}{RATE})) > 0)",
                "mean",
            ),
            Query(f"histogram_quantile(0.95, sum by (le) (rate({_ROWS_SEEN})))", "p95"),
        ],
        unit="none",
    ),
    series(
        "Images by server",
        "Images answered by each server. Uneven with several: streams keep to one server, so this follows which "
        "streams are busy. One at 0: is it ready?",
        [Query(f"sum by (instance) (rate(tta_images_total{{{MODEL}}}{RATE}))", "{{instance}}")],
        unit="suffix: images/s",
    ),
]

FLEET: Final = Row("Fleet", [*_NUMBERS, *_DRIFT, *_PROCESSES])
SERVING: Final = Row("Serving", [*_REQUESTS, *_DEVICE])
