"""The alerts, each once: what wakes somebody, how soon, and what it tells them.

A runbook for each is on the page `docs/alerts.md`, under its name.
"""

from typing import Final, Literal, NamedTuple

# What is added up keeps every label that Prometheus gave it, such as `namespace` and `pod`: so `without`, and not `by`.
_BALANCED: Final = 'haproxy_backend_active_servers{proxy="tta"}'
# What is read of servers and balancers of ours now, and what was within a day.
_READ: Final = f"(tta_build_info or {_BALANCED})"
_WAS_READ: Final = f"(last_over_time(tta_build_info[1d]) or last_over_time({_BALANCED}[1d]))"


class Alert(NamedTuple):
    """Something that somebody must know of.

    Attributes:
        name: What it is called.
        expr: PromQL; each series that it gives is one alert.
        lasts: How long that must be so.
        severity: critical wakes somebody, warning can wait for the day, info for the week.
        summary: What has happened, in one line.
        description: What it means.
    """

    name: str
    expr: str
    lasts: str
    severity: Literal["critical", "warning", "info"]
    summary: str
    description: str


ALERTS: Final[tuple[Alert, ...]] = (
    Alert(
        "TtaDrift",
        'tta_drift_state{state="drift"} > 0',
        "5m",
        "warning",
        "The input of stream {{ $labels.stream }} drifts.",
        "What the frozen model sees of it is not what its source images were like. GET /v1/streams/"
        "{{ $labels.stream }}/drift says since when, and what says so.",
    ),
    Alert(
        "TtaEstimatedAccuracyFalls",
        'avg_over_time(tta_drift_sigmas{score="estimated_accuracy"}[10m]) < -4',
        "10m",
        "warning",
        "The estimated accuracy of the frozen model on stream {{ $labels.stream }} has fallen.",
        "It has been {{ $value | humanize }} standard deviations from that on windows without drift. Where the frozen "
        "model answers, so has that of the answers.",
    ),
    Alert(
        "TtaWorseThanFrozen",
        'tta_labelled_accuracy_ratio{variant="adapted"} < ignoring (variant) '
        'tta_labelled_accuracy_ratio{variant="source"} - 0.05 '
        "and tta_labelled_gain_sigmas < -3 unless min_over_time(tta_serving_source[1h]) == 1",
        "5m",
        "critical",
        "By its labels, stream {{ $labels.stream }} answers worse than the frozen model would.",
        "Adapting does harm: {{ $value | humanizePercentage }} are right of its last labels, and the frozen model is "
        "right on at least 5 points more of the same images, which chance does not explain.",
    ),
    Alert(
        "TtaCollapse",
        "tta_prediction_diversity_ratio < 0.25",
        "5m",
        "critical",
        "Stream {{ $labels.stream }} gives nearly everybody the same answer.",
        "The diversity of its answers is {{ $value | humanize }}, of 1. Either its input shows one class only, or it "
        "has collapsed.",
    ),
    Alert(
        "TtaRestoresInARow",
        'sum without (cause) (increase(tta_restores_total{cause!~"operator|periodic"}[30m])) > 2',
        "0m",
        "warning",
        "Stream {{ $labels.stream }} is taken back again and again.",
        "The guard has taken it back {{ $value | humanize }} times in half an hour. After guard.freeze_after in a row "
        "it is switched off.",
    ),
    Alert(
        "TtaStreamFrozen",
        "tta_stream_frozen > 0",
        "0m",
        "critical",
        "The guard has switched stream {{ $labels.stream }} off, or the domain that it is in.",
        "The frozen model answers, and nothing is learnt of such images until somebody resets the stream or gives it a "
        "mode. GET /v1/streams/{{ $labels.stream }} says which domain and why.",
    ),
    Alert(
        "TtaStreamsUnnamed",
        "tta_stream_labels_dropped_total > 0",
        "5m",
        "info",
        "{{ $labels.instance }} has more streams than streams.max_labelled.",
        "The others share the stream '_other': of them alerts say that one drifts or is frozen, but not which, and no "
        "alert sees one collapse or answer worse than the frozen model.",
    ),
    Alert(
        "TtaLearningStarved",
        "increase(tta_samples_offered_total[30m]) > 256 and increase(tta_samples_learnt_total[30m]) == 0 "
        'unless ignoring (reason) increase(tta_samples_dropped_total{reason="calm"}[30m]) > 0',
        "15m",
        "info",
        "Stream {{ $labels.stream }} is offered images and learns from none.",
        "For half an hour no step was committed. It answers as it did before, whatever its input does.",
    ),
    Alert(
        "TtaStreamSetAside",
        "tta_streams_set_aside > 0",
        "5m",
        "critical",
        "{{ $value }} streams cannot go on at {{ $labels.instance }}.",
        "Their requests get 500. GET /v1/streams says which and why; other streams are not concerned.",
    ),
    Alert(
        "TtaQueueFull",
        'rate(tta_requests_total{outcome="overloaded"}[5m]) '
        "/ ignoring (outcome) sum without (outcome) (rate(tta_requests_total[5m])) > 0.01",
        "5m",
        "warning",
        "{{ $labels.instance }} turns {{ $value | humanizePercentage }} of requests away.",
        "More images come than it can answer, and the queue is full. Learning has stopped before that.",
    ),
    Alert(
        "TtaStreamsFull",
        'rate(tta_requests_total{outcome="streams_full"}[5m]) > 0',
        "5m",
        "critical",
        "{{ $labels.instance }} has no place for new streams.",
        "It holds streams.max_streams, and none gives way: whoever sends images to another one, a new camera or one "
        "whose stream was erased, gets 429 streams_full and no answer. Others are answered.",
    ),
    Alert(
        "TtaErrors",
        'rate(tta_requests_total{outcome="error"}[5m]) '
        "/ ignoring (outcome) sum without (outcome) (rate(tta_requests_total[5m])) > 0.01",
        "5m",
        "critical",
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.instance }} fail.",
        "The fault is the server's, not the callers'. Its log says what it is.",
    ),
    Alert(
        "TtaStorageFailing",
        "increase(tta_snapshot_failures_total[10m]) > 0 or increase(tta_records_lost_total[10m]) > 0",
        "5m",
        "critical",
        "{{ $labels.instance }} cannot write what its streams learn.",
        "Answers and learning go on; a restart now would cost what was learnt since the last write.",
    ),
    Alert(
        "TtaStorageBehind",
        "tta_snapshot_age_seconds > 60",
        "2m",
        "critical",
        "{{ $labels.instance }} has not written what a stream has learnt for {{ $value | humanizeDuration }}.",
        "The storage fails, says nothing at all, or is too slow. Answers and learning go on; a restart now would cost "
        "what was learnt since. Where storage.save_every_s is near a minute or above, 60 must be higher here.",
    ),
    Alert(
        "TtaWebhooksLost",
        'increase(tta_webhooks_total{outcome=~"failed|dropped"}[15m]) > 0',
        "0m",
        "warning",
        "{{ $labels.instance }} could not tell webhooks.url what happened.",
        "Whoever relies on webhooks was not told of a drift, a freeze or a restore. The log and GET /v1/audit have it.",
    ),
    Alert(
        "TtaNoBundle",
        "tta_reference_bundle == 0",
        "5m",
        "warning",
        "Model {{ $labels.model }} is served without a reference bundle.",
        "Nothing is told apart, drift is not scored, and the guard judges numbers and distances only.",
    ),
    Alert(
        "TtaNotReady",
        "tta_ready == 0",
        "5m",
        "critical",
        "{{ $labels.instance }} has not been ready for model {{ $labels.model }} for minutes.",
        "It runs and says itself that it cannot answer, so balancers send it nothing, and no request is seen to fail. "
        "/v2/health/ready says why; often the storage says nothing.",
    ),
    Alert(
        "TtaServerDown",
        # A pod that is made anew under its name has another address. Others of its ports are not ours: one is read.
        f"up == 0 and on (job, instance, namespace, pod) {_WAS_READ} "
        f'or up{{pod!=""}} == 0 and on (job, namespace, pod) {_WAS_READ} unless on (job, namespace, pod) {_READ}',
        "5m",
        "critical",
        "Prometheus cannot read {{ $labels.instance }}.",
        "This server or balancer has ended, hangs, or cannot be reached. The streams that a server had are answered by "
        "others if servers share a storage, and by nobody otherwise.",
    ),
    Alert(
        "TtaServerAbsent",
        "absent(tta_build_info)",
        "5m",
        "critical",
        "Prometheus reads no server.",
        "None runs, or none is scraped: whatever else is wrong cannot be seen.",
    ),
    Alert(
        "TtaBalancerEmpty",
        f"{_BALANCED} == 0",
        "5m",
        "critical",
        "The balancer {{ $labels.instance }} knows no replica that is ready.",
        "Whoever asks it gets 503. Either no replica is ready, and other alerts say why, or it cannot find or reach "
        "them: names, ports, network policy.",
    ),
    Alert(
        "TtaBalancerAbsent",
        f"group by (job, namespace) (last_over_time({_BALANCED}[1h])) unless on (job, namespace) {_BALANCED}",
        "5m",
        "critical",
        "Prometheus reads no balancer of {{ $labels.job }} any more.",
        "It read one within the hour. None runs, or none is scraped; without one nobody reaches a replica.",
    ),
)
