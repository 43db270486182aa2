"""The exported series: complete from the start, and bounded in number."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Gauge
from prometheus_client.parser import text_string_to_metric_families

from tta_server.telemetry.closed_sets import (
    ACTIONS,
    CAUSES,
    DOMAIN_OUTCOMES,
    DRIFT_CAUSES,
    DRIFT_SCORES,
    DRIFT_STATES,
    DROP_REASONS,
    LEARNT_SCORES,
    MOVES,
    REQUEST_OUTCOMES,
    RESTORE_CAUSES,
    STAGES,
    STATE_KINDS,
    TURNED_AWAY,
    WINDOW_OUTCOMES,
)
from tta_server.telemetry.metrics import Metrics, render
from tta_server.telemetry.stream_series import _MEASURES as MEASURES


def samples(metrics: Metrics) -> dict[tuple, float]:
    """Return every sample by its name and labels."""
    families = text_string_to_metric_families(render([metrics]).decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def values(metrics: Metrics, name: str, label: str) -> dict[str, float]:
    """Return the samples of one series by one of their labels."""
    return {dict(key[1:])[label]: value for key, value in samples(metrics).items() if key[0] == name}


def streams(metrics: Metrics) -> set[str]:
    return {dict(key[1:])["stream"] for key in samples(metrics) if "stream" in dict(key[1:])}


def use(metrics: Metrics, name: str) -> None:
    metrics.stream.open(name, "tent")
    metrics.stream.answered(name, 1, 0.5, 0.5)
    metrics.stream.offered(name, 2)
    metrics.stream.learnt(name, 2)
    metrics.stream.dropped(name, 1, "overload")
    metrics.stream.window(name, "tent", "updated")
    metrics.stream.restored(name, "operator")
    metrics.stream.state(name, 3, as_source=True, frozen=True)
    metrics.stream.measures(name, dict.fromkeys(MEASURES, 0.5))
    metrics.stream.accuracy(name, {"adapted": 0.5, "source": 0.25}, 1.5)
    metrics.stream.place(name, False, 1.5, 9.0)
    metrics.stream.domains(name, 2)
    metrics.stream.domain(name, "opened")
    metrics.stream.drift.state(name, "drift")
    metrics.stream.drift.since(name, "2026-01-02T03:04:05.678+00:00")
    metrics.stream.drift.scores(name, dict.fromkeys(DRIFT_SCORES, 4.5), 3.0)
    metrics.stream.drift.beside(name, 0.9, 0.8, 0.85)
    metrics.stream.drift.began(name, "style")


def test_closed_sets_start_at_zero():
    metrics = Metrics("m", "tent")

    assert values(metrics, "tta_requests_total", "outcome") == dict.fromkeys(REQUEST_OUTCOMES, 0)
    assert values(metrics, "tta_refusals_total", "reason") == dict.fromkeys(TURNED_AWAY, 0)
    assert values(metrics, "tta_stage_duration_seconds_count", "stage") == dict.fromkeys(STAGES, 0)
    assert values(metrics, "tta_stream_labels_dropped_total", "model") == {"m": 0}
    assert values(metrics, "tta_stream_moves_total", "move") == dict.fromkeys(MOVES, 0)
    assert values(metrics, "tta_state_bytes", "kind") == dict.fromkeys(STATE_KINDS, 0)
    verdicts = [dict(key[1:]) for key in samples(metrics) if key[0] == "tta_verdicts_total"]
    assert {(each["verdict"], each["cause"]) for each in verdicts} == set(itertools.product(ACTIONS, CAUSES))


def test_a_new_stream_starts_at_zero():
    metrics = Metrics("m", "tent")

    metrics.stream.open("door", "tent")

    assert values(metrics, "tta_batches_total", "action") == dict.fromkeys(WINDOW_OUTCOMES, 0)
    assert values(metrics, "tta_restores_total", "cause") == dict.fromkeys(RESTORE_CAUSES, 0)
    assert values(metrics, "tta_samples_dropped_total", "reason") == dict.fromkeys(DROP_REASONS, 0)
    assert values(metrics, "tta_domain_events_total", "event") == dict.fromkeys(DOMAIN_OUTCOMES, 0)
    names = ("tta_images_total", "tta_samples_offered_total", "tta_samples_learnt_total")
    for name in (*names, "tta_state_version", "tta_serving_source", "tta_stream_frozen"):
        assert values(metrics, name, "stream") == {"door": 0}


def test_no_created_series_are_exported():
    metrics = Metrics("m", "tent")
    use(metrics, "door")
    metrics.request("ok", 0.1)

    assert not [key for key in samples(metrics) if key[0].endswith("_created")]


def test_a_stream_of_whose_drift_nothing_is_known_has_its_state_and_no_number():
    metrics = Metrics("m", "tent")
    use(metrics, "door")
    assert values(metrics, "tta_drift_state", "state") == {"unknown": 0, "stable": 0, "warning": 0, "drift": 1}

    metrics.stream.drift.state("door", "unknown")

    assert values(metrics, "tta_drift_state", "state") == {"unknown": 1, "stable": 0, "warning": 0, "drift": 0}
    assert {key[0] for key in samples(metrics) if "drift" in key[0] or "estimated_acc" in key[0]} == {
        "tta_drift_state",
        "tta_drift_events_total",
    }


def test_streams_past_the_limit_share_one_series_that_adds_up_or_counts_and_has_no_other_number():
    metrics = Metrics("m", "tent", max_labelled=2)

    for name in ("a", "b", "c", "d"):
        use(metrics, name)
    metrics.stream.drift.state("d", "stable")

    assert values(metrics, "tta_samples_offered_total", "stream") == {"a": 2, "b": 2, "_other": 4}
    assert values(metrics, "tta_stream_labels_dropped_total", "model") == {"m": 2}
    assert values(metrics, "tta_stream_frozen", "stream") == {"a": 1, "b": 1, "_other": 2}
    shared = {key: value for key, value in samples(metrics).items() if ("stream", "_other") in key}
    drift = {dict(key[1:])["state"]: value for key, value in shared.items() if key[0] == "tta_drift_state"}
    assert drift == {"unknown": 0, "stable": 1, "warning": 0, "drift": 1}
    assert {key[0] for key in shared if not key[0].endswith("_total")} == {
        "tta_drift_state",
        "tta_serving_source",
        "tta_stream_at_home",
        "tta_stream_frozen",
    }
    for name in ("c", "d", "a"):
        metrics.stream.close(name)
    assert values(metrics, "tta_stream_frozen", "stream") == {"b": 1, "_other": 0}


def test_no_stream_can_take_the_shared_series_for_its_own():
    metrics = Metrics("m", "tent", max_labelled=2)

    for name in ("_other", "a", "b", "c"):
        use(metrics, name)

    assert values(metrics, "tta_samples_offered_total", "stream") == {"a": 2, "b": 2, "_other": 4}


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True), unique=True, max_size=40),
    most=st.integers(0, 5),
)
def test_no_set_of_names_makes_more_series_than_the_limit(names, most):
    metrics = Metrics("m", "tent", max_labelled=most)
    empty = len(samples(metrics))

    for name in names:
        use(metrics, name)

    # Images, offered, learnt, entropy, confidence, version, source, frozen, two accuracies; domains, whether at home,
    # and two distances; of drift: since when, evidence, agreement, two estimates.
    closed = (MEASURES, WINDOW_OUTCOMES, RESTORE_CAUSES, DROP_REASONS, DOMAIN_OUTCOMES)
    drift = (DRIFT_STATES, DRIFT_CAUSES, DRIFT_SCORES)
    per_stream = 19 + sum(map(len, closed + drift))
    assert len(streams(metrics) - {"_other"}) <= most
    assert len(samples(metrics)) - empty <= (most + 1) * per_stream
    assert sum(values(metrics, "tta_samples_offered_total", "stream").values()) == 2 * len(names)


def test_a_thousand_streams_keep_the_page_small():
    metrics = Metrics("m", "tent")

    for i in range(1000):
        use(metrics, f"camera-{i}")

    assert len(streams(metrics)) == 101


def test_closing_a_stream_removes_its_series_and_makes_room_for_another():
    metrics = Metrics("m", "tent", max_labelled=1)
    empty = samples(metrics).keys()
    use(metrics, "a")

    metrics.stream.close("a")
    assert samples(metrics).keys() == empty

    use(metrics, "b")
    assert streams(metrics) == {"b"}


def test_closing_a_stream_that_shares_its_series_leaves_them_to_the_others():
    metrics = Metrics("m", "tent", max_labelled=0)
    for name in ("a", "b"):
        use(metrics, name)

    metrics.stream.close("a")

    assert values(metrics, "tta_samples_offered_total", "stream") == {"_other": 4}


def test_a_thousand_names_that_come_and_go_leave_no_more_series_than_the_limit():
    metrics = Metrics("m", "tent", max_labelled=3)
    use(metrics, "_other")
    full = len(samples(metrics)) * 4

    for i in range(1000):
        metrics.stream.open(f"camera-{i}", "tent")
        metrics.stream.close(f"camera-{i}")

    assert len(samples(metrics)) < full
    assert streams(metrics) == {"_other"}


def test_failed_writes_are_counted_once():
    metrics = Metrics("m", "tent")

    for failures in (2, 2, 5):
        metrics.stored(age_s=7.0, failures=failures, lost=0)

    assert values(metrics, "tta_snapshot_failures_total", "model") == {"m": 5}
    assert values(metrics, "tta_snapshot_age_seconds", "model") == {"m": 7}


def test_a_block_is_timed_also_when_it_fails():
    metrics = Metrics("m", "tent")

    with pytest.raises(ValueError, match="no"), metrics.timed("decode"):
        raise ValueError("no")

    assert values(metrics, "tta_stage_duration_seconds_count", "stage")["decode"] == 1


def test_what_happened_is_what_is_exported():
    metrics = Metrics("m", "tent")
    metrics.stream.open("door", "tent")

    metrics.batch(8)
    metrics.queue(3)
    metrics.streams(3, 2, {"state": 10, "history": 20, "window": 30})
    metrics.moved("evicted")
    metrics.verdict("rollback", "canary")
    metrics.stream.window("door", "tent", "rejected")
    metrics.stream.restored("door", "canary")
    metrics.stream.state("door", 5, as_source=True, frozen=False)
    metrics.stream.answered("door", 8, 0.25, 0.75)
    metrics.stream.measures("door", {"update_norm": 0.5, "nobody shows this": 1.0})
    metrics.stream.accuracy("door", {"answered": 0.75}, None)
    metrics.stream.place("door", False, 1.25, None)
    metrics.stream.domains("door", 2)
    metrics.stream.domain("door", "recalled")

    found = samples(metrics)
    assert found["tta_images_total", ("model", "m"), ("stream", "door")] == 8
    assert found["tta_queue_depth_images", ("model", "m")] == 3
    assert found["tta_streams", ("model", "m")] == 3
    assert found["tta_streams_on_disk", ("model", "m")] == 2
    assert values(metrics, "tta_state_bytes", "kind") == {"state": 10, "history": 20, "window": 30}
    assert values(metrics, "tta_stream_moves_total", "move")["evicted"] == 1
    assert found["tta_verdicts_total", ("cause", "canary"), ("model", "m"), ("verdict", "rollback")] == 1
    assert values(metrics, "tta_restores_total", "cause")["canary"] == 1
    assert values(metrics, "tta_serving_source", "stream") == {"door": 1}
    assert values(metrics, "tta_update_norm_ratio", "stream") == {"door": 0.5}
    assert values(metrics, "tta_labelled_accuracy_ratio", "variant") == {"answered": 0.75}
    assert found["tta_state_version", ("model", "m"), ("stream", "door")] == 5
    assert found["tta_predictive_entropy_ratio", ("model", "m"), ("stream", "door")] == 0.25
    assert found["tta_confidence_ratio", ("model", "m"), ("stream", "door")] == 0.75
    assert found["tta_stream_at_home", ("model", "m"), ("stream", "door")] == 0
    assert found["tta_stream_domains", ("model", "m"), ("stream", "door")] == 2
    assert values(metrics, "tta_domain_distance_ratio", "stream") == {"door": 1.25}
    assert values(metrics, "tta_source_distance_ratio", "stream") == {}
    assert values(metrics, "tta_domain_events_total", "event") == dict.fromkeys(DOMAIN_OUTCOMES, 0) | {"recalled": 1}
    assert values(metrics, "tta_batches_total", "action")["rejected"] == 1


def test_what_was_measured_of_one_learner_goes_with_the_next_and_nothing_else_does():
    metrics = Metrics("m", "tent")
    use(metrics, "door")
    metrics.stream.learner("door", "door@1")
    before = set(samples(metrics))

    metrics.stream.learner("door", "door@1")
    assert set(samples(metrics)) == before
    metrics.stream.learner("door", "")

    gone = before - set(samples(metrics))
    names = {name for name, *_ in gone} - {"tta_drift_sigmas", "tta_estimated_accuracy_ratio"}
    assert names == {"tta_source_agreement_ratio", *(family for family, _ in MEASURES.values())}
    assert {dict(labels).get("variant") for name, *labels in gone if "estimated_acc" in name} == {"adapted"}
    assert {dict(labels)["score"] for name, *labels in gone if name == "tta_drift_sigmas"} == set(LEARNT_SCORES)


def test_what_starts_again_keeps_the_number_of_its_domains_and_no_distance():
    metrics = Metrics("m", "tent")
    use(metrics, "door")

    metrics.stream.forget("door")

    assert values(metrics, "tta_stream_domains", "stream") == {"door": 2}
    assert values(metrics, "tta_domain_distance_ratio", "stream") == {}


def test_two_models_do_not_share_a_registry():
    first, second = Metrics("a", "tent"), Metrics("b", "bn")

    first.request("ok", 0.1)

    assert sum(values(second, "tta_requests_total", "outcome").values()) == 0


def test_several_models_are_rendered_together_each_family_once():
    models = [Metrics("a", "tent", 5), Metrics("b", "bn", 5)]
    for count, each in enumerate(models, 1):
        each.stream.open("door", "tent")
        each.queue(count)

    text = render(models).decode()

    assert values(models[0], "tta_queue_depth_images", "model") == {"a": 1}
    families = [family.name for family in text_string_to_metric_families(text)]
    assert len(families) == len(set(families))
    assert {'tta_queue_depth_images{model="a"} 1.0', 'tta_queue_depth_images{model="b"} 2.0'} <= set(text.splitlines())
    assert sum(line.startswith("process_cpu_seconds_total ") for line in text.splitlines()) == 1
    one, other = (set(render([each]).decode().splitlines()) for each in models)
    volatile = {line for line in one | other if line.startswith(("process_", "python_info"))}
    assert (one | other) - volatile <= set(text.splitlines())


def test_after_a_reset_no_gauge_of_a_stream_keeps_what_it_said():
    metrics = Metrics("m", "tent")
    for name in ("door", "gate"):
        use(metrics, name)
    gauges = {each.family._name for each in metrics.stream._families if isinstance(each.family, Gauge)}
    assert {name for name, *labels in samples(metrics) if ("stream", "door") in labels} >= gauges

    metrics.stream.forget("door")

    left = {name: value for (name, *labels), value in samples(metrics).items() if ("stream", "door") in labels}
    assert left.keys() & gauges == {"tta_stream_domains"}
    assert left["tta_samples_offered_total"] == 2
    assert {name for name, *labels in samples(metrics) if ("stream", "gate") in labels} >= gauges
