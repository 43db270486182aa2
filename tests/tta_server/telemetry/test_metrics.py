"""The exported series: complete from the start, and bounded in number."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tta_server.telemetry.metrics import ACTIONS, OUTCOMES, STAGES, Metrics


def samples(metrics: Metrics) -> dict[tuple, float]:
    """Return every sample by its name and labels."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def values(metrics: Metrics, name: str, label: str) -> dict[str, float]:
    """Return the samples of one series by one of their labels."""
    return {dict(key[1:])[label]: value for key, value in samples(metrics).items() if key[0] == name}


def streams(metrics: Metrics) -> set[str]:
    return {dict(key[1:])["stream"] for key in samples(metrics) if "stream" in dict(key[1:])}


def use(metrics: Metrics, name: str) -> None:
    metrics.open_stream(name)
    metrics.answered(name, 1, 0.5, 0.5)
    metrics.offered(name, 2)
    metrics.step(name, "updated", 3)
    metrics.reset(name, 4)


def test_closed_sets_start_at_zero():
    metrics = Metrics("m", "tent")

    assert values(metrics, "tta_requests_total", "outcome") == dict.fromkeys(OUTCOMES, 0)
    assert values(metrics, "tta_stage_duration_seconds_count", "stage") == dict.fromkeys(STAGES, 0)
    assert values(metrics, "tta_stream_labels_dropped_total", "model") == {"m": 0}


def test_a_new_stream_starts_at_zero():
    metrics = Metrics("m", "tent")

    metrics.open_stream("door")

    assert values(metrics, "tta_batches_total", "action") == dict.fromkeys(ACTIONS, 0)
    assert values(metrics, "tta_images_total", "stream") == {"door": 0}
    for name in ("tta_samples_offered_total", "tta_resets_total", "tta_state_version"):
        assert values(metrics, name, "stream") == {"door": 0}


def test_no_created_series_are_exported():
    metrics = Metrics("m", "tent")
    use(metrics, "door")
    metrics.request("ok", 0.1)

    assert not [key for key in samples(metrics) if key[0].endswith("_created")]


def test_streams_past_the_limit_share_one_series():
    metrics = Metrics("m", "tent", max_labelled=2)

    for name in ("a", "b", "c", "d"):
        use(metrics, name)

    assert values(metrics, "tta_samples_offered_total", "stream") == {"a": 2, "b": 2, "_other": 4}
    assert values(metrics, "tta_stream_labels_dropped_total", "model") == {"m": 2}


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

    per_stream = 6 + len(ACTIONS)  # images, entropy, confidence, offered, version, resets
    assert len(streams(metrics) - {"_other"}) <= most
    assert len(samples(metrics)) - empty <= (most + 1) * per_stream
    assert sum(values(metrics, "tta_samples_offered_total", "stream").values()) == 2 * len(names)


def test_a_thousand_streams_keep_the_page_small():
    metrics = Metrics("m", "tent")

    for i in range(1000):
        use(metrics, f"camera-{i}")

    assert len(streams(metrics)) == 101


def test_a_block_is_timed_also_when_it_fails():
    metrics = Metrics("m", "tent")

    with pytest.raises(ValueError, match="no"), metrics.timed("decode"):
        raise ValueError("no")

    assert values(metrics, "tta_stage_duration_seconds_count", "stage")["decode"] == 1


def test_what_happened_is_what_is_exported():
    metrics = Metrics("m", "tent")
    metrics.open_stream("door")

    metrics.batch(8)
    metrics.queue(3)
    metrics.streams(1)
    metrics.step("door", "rejected", 5)
    metrics.answered("door", 8, 0.25, 0.75)

    found = samples(metrics)
    assert found["tta_images_total", ("model", "m"), ("stream", "door")] == 8
    assert found["tta_queue_depth_images", ("model", "m")] == 3
    assert found["tta_streams", ("model", "m")] == 1
    assert found["tta_state_version", ("model", "m"), ("stream", "door")] == 5
    assert found["tta_predictive_entropy_ratio", ("model", "m"), ("stream", "door")] == 0.25
    assert found["tta_confidence_ratio", ("model", "m"), ("stream", "door")] == 0.75
    assert values(metrics, "tta_batches_total", "action")["rejected"] == 1


def test_two_models_do_not_share_a_registry():
    first, second = Metrics("a", "tent"), Metrics("b", "bn")

    first.request("ok", 0.1)

    assert sum(values(second, "tta_requests_total", "outcome").values()) == 0
