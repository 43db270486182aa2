"""The alerts: each fires when it should and only then, and tells what to do."""

import re
import subprocess
import sys

import pytest
import yaml

from k8s.alerts.rules import ALERTS, Alert
from tests.k8s.expressions import metrics_of
from tta_server.settings import Settings

POD = 'instance="a",job="tta",namespace="n",pod="tta-server-0"'
SERVER = f'model="m",{POD}'
STREAM = f'{SERVER},stream="door"'
SECOND = 'instance="b",job="tta",namespace="n",pod="tta-server-1"'
BALANCER = 'instance="d",job="balancer",namespace="n",pod="balancer-0"'
BALANCED = f'haproxy_backend_active_servers{{{BALANCER},proxy="tta"}}'
FOREIGN = f'haproxy_backend_active_servers{{{BALANCER},proxy="replicas"}}'
# What a healthy model of a server shows for an hour, a sample each minute.
ONE = {
    f"tta_build_info{{{SERVER}}}": "1x60",
    f"tta_ready{{{SERVER}}}": "0x4 1x20 0x4 1x30",  # it starts, and is restarted
    f"tta_reference_bundle{{{SERVER}}}": "1x60",
    f"tta_streams_set_aside{{{SERVER}}}": "0x60",
    f"tta_snapshot_failures_total{{{SERVER}}}": "0x60",
    f"tta_records_lost_total{{{SERVER}}}": "0x60",
    f"tta_snapshot_age_seconds{{{SERVER}}}": "0x30 59x29",
    f"up{{{POD}}}": "1x60",
    'up{instance="c",job="tta",namespace="n",pod="foreign"}': "0x60",  # where one job reads the pods of everybody
    'up{instance="e",job="tta",namespace="n",pod="foreign"}': "1x9 0x50",  # it has the address of a pod that was ours
    'tta_build_info{model="m",instance="e",job="tta",namespace="n",pod="tta-server-9"}': "1x5 stale",
    'up{instance="f",job="tta",namespace="other",pod="tta-server-9"}': "0x60",  # it has the name, and is elsewhere
    'up{instance="g",job="tta",namespace="n",pod="tta-server-0"}': "0x60",  # another port of a pod that is well
    f"up{{{BALANCER}}}": "1x60",
    BALANCED: "3x20 0x3 2x36",
    FOREIGN: "0x60",
    f'tta_webhooks_total{{{SERVER},outcome="failed"}}': "0x60",
    f'tta_webhooks_total{{{SERVER},outcome="retried"}}': "0+1x60",
    f'tta_requests_total{{{SERVER},outcome="ok"}}': "0+600x60",
    f'tta_requests_total{{{SERVER},outcome="error"}}': "0+1x60",
    f'tta_requests_total{{{SERVER},outcome="overloaded"}}': "0+1x60",
    f'tta_requests_total{{{SERVER},outcome="streams_full"}}': "3x60",
    f'tta_drift_state{{{STREAM},state="drift"}}': "0x60",
    f'tta_drift_state{{{STREAM},state="stable"}}': "1x60",
    f'tta_drift_sigmas{{{STREAM},score="estimated_accuracy"}}': "-2x60",
    f'tta_drift_sigmas{{{STREAM},score="confidence"}}': "-9x60",
    f'tta_labelled_accuracy_ratio{{{STREAM},variant="adapted"}}': "0.88x60",
    f'tta_labelled_accuracy_ratio{{{STREAM},variant="source"}}': "0.9x60",
    f"tta_labelled_gain_sigmas{{{STREAM}}}": "-4x60",  # beyond chance, and little
    f"tta_serving_source{{{STREAM}}}": "1x40 0x1 1x19",  # mostly at home
    f"tta_prediction_diversity_ratio{{{STREAM}}}": "0.9x60",
    f'tta_restores_total{{{STREAM},cause="canary"}}': "0x30 1x29",
    f'tta_restores_total{{{STREAM},cause="operator"}}': "0+1x60",
    f"tta_stream_frozen{{{STREAM}}}": "0x60",
    f"tta_stream_labels_dropped_total{{{SERVER}}}": "0x60",
    f"tta_samples_offered_total{{{STREAM}}}": "0+64x60",
    f"tta_samples_learnt_total{{{STREAM}}}": "0+32x60",
}
OTHER = {series.replace('model="m"', 'model="n"'): values for series, values in ONE.items()}
HEALTHY = ONE | OTHER
# A stream that is to learn while it drifts only, and does not drift.
CALM = {
    f"tta_samples_learnt_total{{{STREAM}}}": "500x60",
    f'tta_samples_dropped_total{{{STREAM},reason="calm"}}': "0+64x60",
}
# Several of the streams that share their series are so at once.
OTHERS = {
    f'tta_drift_state{{{SERVER},stream="_other",state="drift"}}': "3x60",
    f'tta_stream_frozen{{{SERVER},stream="_other"}}': "2x60",
}
HARM = {
    f'tta_labelled_accuracy_ratio{{{STREAM},variant="adapted"}}': "0.88x30 0.8x29",
    f'tta_labelled_accuracy_ratio{{{STREAM},variant="answered"}}': "0.8x60",
}
# One label: the stream was wrong, and the frozen model right.
ONE_LABEL = {
    f'tta_labelled_accuracy_ratio{{{STREAM},variant="adapted"}}': "0x60",
    f'tta_labelled_accuracy_ratio{{{STREAM},variant="source"}}': "1x60",
    f"tta_labelled_gain_sigmas{{{STREAM}}}": "-1x60",
}
# Somebody has switched it off: the frozen model answers.
OFF = HARM | {f"tta_serving_source{{{STREAM}}}": "1x60"}
# A pod of the StatefulSet is made anew: it has its name, another address, and never gets up.
ANEW = {
    f"up{{{SECOND}}}": "1x20 stale",
    f'tta_build_info{{model="m",{SECOND}}}': "1x20 stale",
    'up{instance="h",job="tta",namespace="n",pod="tta-server-1"}': "_x25 0x34",
}
# Where Prometheus is told addresses and no pods, a server ends.
STATIC = {
    'up{instance="i",job="tta",namespace="n"}': "1x40 0x19",
    'tta_build_info{model="m",instance="i",job="tta",namespace="n"}': "1x40 stale",
    'up{instance="j",job="tta",namespace="n"}': "0x60",  # it was never ours
}
# What is different when an alert must fire; None takes a series away.
ILL = {
    "TtaDrift": {f'tta_drift_state{{{STREAM},state="drift"}}': "0x30 1x29"},
    "TtaEstimatedAccuracyFalls": {f'tta_drift_sigmas{{{STREAM},score="estimated_accuracy"}}': "-2x20 -6x39"},
    "TtaWorseThanFrozen": HARM,
    "TtaCollapse": {f"tta_prediction_diversity_ratio{{{STREAM}}}": "0.9x30 0.2x29"},
    "TtaRestoresInARow": {f'tta_restores_total{{{STREAM},cause="canary"}}': "0x40 1x5 2x4 3x9"},
    "TtaStreamFrozen": {f"tta_stream_frozen{{{STREAM}}}": "0x50 1x9"},
    "TtaStreamsUnnamed": {f"tta_stream_labels_dropped_total{{{SERVER}}}": "0x40 3x19"},
    "TtaLearningStarved": {f"tta_samples_learnt_total{{{STREAM}}}": "500x60"},
    "TtaStreamSetAside": {f"tta_streams_set_aside{{{SERVER}}}": "0x30 2x29"},
    "TtaQueueFull": {f'tta_requests_total{{{SERVER},outcome="overloaded"}}': "0+20x60"},
    "TtaStreamsFull": {f'tta_requests_total{{{SERVER},outcome="streams_full"}}': "3x40 3+1x19"},
    "TtaErrors": {f'tta_requests_total{{{SERVER},outcome="error"}}': "0+20x60"},
    "TtaStorageFailing": {f"tta_snapshot_failures_total{{{SERVER}}}": "0x40 1+1x19"},
    "TtaStorageBehind": {f"tta_snapshot_age_seconds{{{SERVER}}}": "1x30 1+60x29"},
    "TtaWebhooksLost": {f'tta_webhooks_total{{{SERVER},outcome="failed"}}': "0x50 1x9"},
    "TtaNoBundle": {f"tta_reference_bundle{{{SERVER}}}": "0x60"},
    "TtaNotReady": {f"tta_ready{{{SERVER}}}": "1x40 0x19"},
    "TtaServerDown": {
        f"up{{{SECOND}}}": "1x40 0x19",
        f'tta_build_info{{model="m",{SECOND}}}': "1x40 stale",
    },
    "TtaServerAbsent": dict.fromkeys((series for series in HEALTHY if series.startswith("tta_build_info")), None),
    "TtaBalancerEmpty": {BALANCED: "3x40 0x19"},
    "TtaBalancerAbsent": {BALANCED: "3x40 stale", f"up{{{BALANCER}}}": "1x40 stale"},
}


def case(name: str, changed: dict[str, str | None], fired: set[str], pod: str = ', pod="pod"') -> dict:
    """Return a unit test of promtool's: after an hour of a server's two models, exactly these alerts fire."""
    series = {series: values for series, values in (HEALTHY | changed).items() if values}
    # Each says whose it is; what is absent has no pod.
    gone = {"TtaServerAbsent": "", "TtaBalancerAbsent": ', namespace="n"'}
    whose = {alert: gone.get(alert, f', namespace="n"{pod}') for alert in fired}
    samples = [{"labels": f'{{alertname="{alert}"{about}}}', "value": 1} for alert, about in sorted(whose.items())]
    pods = 'label_replace(ALERTS{alertstate="firing"}, "pod", "pod", "pod", "(tta-server|balancer)-.")'
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in series.items()],
        "promql_expr_test": [
            {"expr": f"count by (alertname, namespace, pod) ({pods})", "eval_time": "59m", "exp_samples": samples}
        ],
    }


def test_the_committed_rules_are_what_the_generator_writes(root, tmp_path):
    subprocess.run([sys.executable, "-m", "k8s.alerts.generate", str(tmp_path)], cwd=root, check=True, timeout=60)

    for name in ("rules.yaml", "prometheus-rule.yaml"):
        committed = (root / "k8s/alerts" / name).read_text()
        assert (tmp_path / name).read_text() == committed, "run: python -m k8s.alerts.generate"


def test_the_operators_resource_holds_the_same_rules(root):
    plain, resource = (yaml.safe_load((root / "k8s/alerts" / name).read_text()) for name in
                       ("rules.yaml", "prometheus-rule.yaml"))  # fmt: skip

    assert resource["kind"] == "PrometheusRule"
    assert resource["spec"] == plain


def test_promtool_reads_the_rules(root, promtool):
    checked = subprocess.run([promtool, "check", "rules", root / "k8s/alerts/rules.yaml"], capture_output=True,
                             check=False, timeout=30)  # fmt: skip

    assert checked.returncode == 0, checked.stderr.decode()
    assert f"{len(ALERTS)} rules found" in checked.stdout.decode()


def test_each_alert_fires_when_it_should_and_none_does_on_a_healthy_server(root, promtool, tmp_path):
    assert ILL.keys() == {alert.name for alert in ALERTS}
    cases = [
        case("healthy", {}, set()),
        case("calm", CALM, set()),
        case("one label", ONE_LABEL, set()),
        case("off", OFF, set()),
        case("others", OTHERS, {"TtaDrift", "TtaStreamFrozen"}),
        case("anew", ANEW, {"TtaServerDown"}),
        case("static", STATIC, {"TtaServerDown"}, pod=""),
        *(case(name, changed, {name}) for name, changed in ILL.items()),
    ]
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({
        "rule_files": [str(root / "k8s/alerts/rules.yaml")], "evaluation_interval": "1m", "tests": cases,
    }))  # fmt: skip

    tested = subprocess.run([promtool, "test", "rules", path], capture_output=True, check=False, timeout=60)

    assert tested.returncode == 0, tested.stdout.decode() + tested.stderr.decode()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_each_alert_is_about_metrics_that_exist_and_has_a_runbook(alert: Alert, root, families):
    page = (root / "docs/alerts.md").read_text()

    others = {"up", "haproxy_backend_active_servers"}  # Prometheus' own; and test_balancer.py has HAProxy's
    assert metrics_of(alert.expr) <= others.union(*families.values())
    assert f"\n## {alert.name}\n" in page
    assert alert.summary.endswith(".")
    assert len(alert.description) > 60


def test_the_settings_that_alerts_name_exist():
    sections = "|".join(Settings.model_fields)
    named = {match for alert in ALERTS for match in re.findall(rf"\b({sections})\.(\w+)", alert.description)}

    for section, key in named:
        assert key in type(getattr(Settings(), section)).model_fields, f"{section}.{key}"
