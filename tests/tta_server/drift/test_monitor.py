"""Scores of a stream are what anybody computes from the same images, however they come."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.spatial.distance import cdist, jensenshannon
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from tests.tta_server.runtime.fakes import ask, close, learn_all, opened
from tta_server import adapters
from tta_server.app import open_storage
from tta_server.drift.evidence import TESTED, WIDENED
from tta_server.drift.monitor import Monitor
from tta_server.drift.scores import EXPLAINED, LEVELS, SourceStatistics, Yardstick, image_scores, window_scores
from tta_server.drift.watch import Watch
from tta_server.models import Output, Reference, glyphs, load
from tta_server.runtime.assemble import assemble
from tta_server.runtime.work.worker import Worker
from tta_server.settings import DriftSettings
from tta_server.settings_file import load_settings
from tta_server.telemetry.metrics import Metrics

NOW = "2026-01-01T00:00:00.000+00:00"
WINDOW = 64
MODEL = load("glyphs")


def drifted(count: int) -> np.ndarray:
    """Return images under noise (count, 3, 32, 32), bytes."""
    images = glyphs.images("test")[0][:count]
    return np.clip(images + np.random.default_rng(0).normal(0, 60, images.shape), 0, 255).astype(np.uint8)


def forward(images: np.ndarray) -> Output:
    return MODEL.backbone.forward(torch.from_numpy(images).float() / 255)


def monitor(**more: object) -> Monitor:
    return Monitor.of(MODEL.reference, MODEL.backbone.norm_stats(), DriftSettings(**more), WINDOW)


def worker(mode: str, domains: int = 1, **streams: object) -> Worker:
    """Return the server's own worker over the embedded network; `streams` are settings of that section."""
    settings = load_settings(
        None,
        {"engine": {"window_rows": WINDOW}, "domains": {"max": domains}, "streams": {"mode": mode} | streams},
    )
    opened.append(open_storage(settings.storage))
    adapter = adapters.create("tent")
    metrics = Metrics("glyphs", "tent")
    return assemble(MODEL.backbone, MODEL.reference, adapter, settings, metrics, opened[-1])[0]


def recomputed(images: np.ndarray) -> dict[str, float]:
    """Return the scores of a window by numpy and scipy, from what the plain network says."""
    output = forward(images)
    logits, features = output.logits.double().numpy(), output.features.double().numpy()
    part = {name: tensor.double().numpy() for name, tensor in MODEL.reference.tensors.items()}
    shares = np.bincount(logits.argmax(1), minlength=36) / len(logits)
    explained = part["classes/offsets"][logits.argmax(1)].mean(0)
    sure, free = softmax(logits, 1).max(1), -logsumexp(logits, 1)
    precision = part["features/precision"]
    distance = cdist(features, part["features/mean"][None], "mahalanobis", VI=precision)[:, 0]
    ceiling = part["features/distance_quantiles"][LEVELS.index(0.99)]
    return {
        "entropy_ratio": entropy(softmax(logits, 1), axis=1).mean() / np.log(36) - explained[0],
        "confidence": sure.mean(),
        "energy_shift_sigmas": (free.mean() - part["energy/mean"]) / part["energy/std"] - explained[1],
        "prediction_divergence_ratio": jensenshannon(shares, part["histogram/classes"], base=2) ** 2,
        "feature_distance_ratio": distance.mean() / part["features/distance_mean"] - explained[2],
        "far_feature_share": (distance > ceiling).mean(),
        "atc_accuracy": (sure >= part["atc/threshold"]).mean(),
        "estimated_accuracy": ((sure >= part["atc/threshold"]) & (distance <= 1.5 * ceiling)).mean(),
    }


def chance(name: str, value: float, widened: float = 1.0) -> float:
    """Return the p value of a score that has quantiles on both sides, by numpy."""
    quantiles = MODEL.reference.tensors[f"null/{name}_{WINDOW}"].double().numpy()
    mean = float(MODEL.reference.tensors[f"null_moments/{name}_{WINDOW}"][0])
    value = mean + (value - mean) / widened
    below = np.interp(value, quantiles, LEVELS)
    if value > quantiles[-1]:
        return max(1e-12, 2e-3 * 10 ** -((value - quantiles[-1]) / (quantiles[-1] - quantiles[-2])))
    if value < quantiles[0]:
        return max(1e-12, 2e-3 * 10 ** -((quantiles[0] - value) / (quantiles[1] - quantiles[0])))
    return 2 * min(below, 1 - below)


def widened(name: str, images: np.ndarray) -> float:
    """Return how much wider than the bundle says a score is taken to spread in a window of such classes."""
    predicted = forward(images).logits.argmax(1).numpy()
    shares = np.bincount(predicted, minlength=36) / len(images)
    doubt = shares**2 @ MODEL.reference.tensors["classes/doubts"].double().numpy()[:, TESTED.index(name)]
    return WIDENED * math.sqrt(1 + doubt / float(MODEL.reference.tensors[f"null_moments/{name}_{WINDOW}"][1]) ** 2)


@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_scores_z_and_evidence_of_a_stream_are_what_numpy_and_scipy_make_of_its_images(mode):
    images, subject = drifted(2 * WINDOW), worker(mode)
    for start in range(0, len(images), 16):
        ask(subject, "gate", images[start : start + 16])
        learn_all(subject)
    watch = subject.parts.registry.existing("gate").drift
    close()

    windows = [recomputed(images[:WINDOW]), recomputed(images[WINDOW:])]
    assert (watch.seen, len(watch.waiting)) == (2, 0), "an image counts once, though the stream learns from it"
    for row, expected in zip(watch.windows, windows, strict=True):
        found = dict(zip(watch.names, row[3:], strict=True))
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    log = 0.0
    for start, expected in zip((0, WINDOW), windows, strict=True):
        chances = [chance(name, expected[name], widened(name, images[start : start + WINDOW])) for name in TESTED]
        paid = [min(100, quad(lambda k, p=p: k * p ** (k - 1), 0, 1)[0]) for p in chances]
        log = max(0, log + math.log(np.mean(paid)))
    assert watch.evidence.log == pytest.approx(log, rel=1e-3)
    for name in TESTED:
        mean, std = MODEL.reference.tensors[f"null_moments/{name}_{WINDOW}"].tolist()
        known = monitor().known[name]
        assert known.z(watch.scores[name]) == pytest.approx((windows[1][name] - mean) / std, rel=1e-3)
        assert known.p(watch.scores[name]) == pytest.approx(chance(name, windows[1][name]), rel=1e-2)


def test_clean_images_that_are_mostly_of_one_class_are_hardly_ever_drift():
    images, labels = glyphs.images("test")
    rows = np.concatenate([monitor().rows_of(forward(part)) for part in np.array_split(images, 50)])
    watched, drifting = monitor(), 0
    for class_ in range(10):
        rng, own = np.random.default_rng(class_), np.flatnonzero(labels == class_)
        chosen = np.where(
            rng.random(20 * WINDOW) < 0.9, rng.choice(own, 20 * WINDOW), rng.integers(len(rows), size=20 * WINDOW)
        )
        watch = Watch()
        for start in range(0, len(chosen), WINDOW):
            watch = watched.saw(watch, rows[chosen[start : start + WINDOW]], NOW)
            drifting += watch.state == "drift"

    assert drifting <= 20, "of 200 windows; without what classes explain they were 56"


def test_a_bundle_from_before_classes_were_told_apart_explains_nothing_by_them():
    older = Reference(
        MODEL.reference.digest,
        {name: tensor for name, tensor in MODEL.reference.tensors.items() if not name.startswith("classes/")},
        MODEL.reference.about,
    )
    output = forward(glyphs.images("test")[0][:WINDOW])
    source, today = SourceStatistics.of(older), SourceStatistics.of(MODEL.reference)

    found, now = (window_scores(image_scores(output.logits, output.features, each), each) for each in (source, today))

    explained = today.class_offsets[output.logits.argmax(1)].mean(0)
    assert explained.abs().min() > 0
    assert [float(found[name] - now[name]) for name in EXPLAINED] == pytest.approx(explained.tolist(), abs=1e-5)
    assert Monitor.of(older, MODEL.backbone.norm_stats(), DriftSettings(), WINDOW).size == WINDOW


def test_what_a_stream_learns_from_is_scored_beside_the_frozen_model_layer_by_layer():
    images, subject = drifted(2 * WINDOW), worker("after", domains=16)
    for start in range(0, len(images), 16):
        ask(subject, "gate", images[start : start + 16])
        learn_all(subject)
    stream = subject.parts.registry.existing("gate")
    domain = subject.parts.registry.existing("gate@1")
    close()

    learnt, window = stream.drift.learnt, torch.from_numpy(images[WINDOW:]).float() / 255
    frozen = MODEL.backbone.forward(window).logits.argmax(1)
    (before,) = [kept.state for kept in domain.history if kept.steps == 1]
    output = domain.method.adapter.predict(MODEL.backbone, before, window)
    answered, centred = output.logits, output.features - MODEL.reference.tensors["features/mean"]
    assert (stream.drift.state, stream.drift.because) == ("drift", "style")
    assert (learnt.rows, stream.drift.seen) == (WINDOW, 2), "the windows that it learns from are scored for the stream"
    assert learnt.measures["agreement"] == pytest.approx((answered.argmax(1) == frozen).float().mean().item())
    sure = answered.softmax(1).amax(1) >= MODEL.reference.tensors["atc/threshold"]
    distances = ((centred @ MODEL.reference.tensors["features/precision"]) * centred).sum(1).sqrt()
    near = distances <= 1.5 * MODEL.reference.tensors["features/distance_quantiles"][LEVELS.index(0.99)]
    estimate = (sure & near).float().mean().item()
    assert learnt.measures["estimated_accuracy"] == pytest.approx(estimate)
    assert learnt.measures.keys() >= {"diversity", "balance", "update_norm", "parameter_distance"}
    first = learnt.layers["bn"]  # nothing before it has learnt
    found = MODEL.backbone.forward(window, statistics="batch").moments
    stats = MODEL.backbone.norm_stats()
    gap = (found["bn.running_mean"] - stats["bn.running_mean"]).square()
    deviations = (found["bn.running_var"] + 1e-5).sqrt() - (stats["bn.running_var"] + 1e-5).sqrt()
    w2 = ((gap + deviations.square()).mean() / (stats["bn.running_var"] + 1e-5).mean()).sqrt()
    assert first[0] == pytest.approx(w2.item(), rel=1e-4)
    assert max(w2 for w2, _ in learnt.layers.values()) == pytest.approx(learnt.scores["norm_w2_max"])


def test_what_is_measured_of_answers_as_they_are_made_is_what_is_scored_of_windows():
    output = MODEL.backbone.forward(torch.from_numpy(drifted(20)).float() / 255)
    source = SourceStatistics.of(MODEL.reference)

    greatest, distance = Yardstick.of(source).measure(output.logits, output.features)

    found = image_scores(output.logits, output.features, source)
    torch.testing.assert_close(found.confidence.log() - greatest[:, 0], found.energy)
    torch.testing.assert_close(distance[:, 0], found.distance, rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=12))
def test_how_images_are_cut_into_requests_changes_nothing(sizes):
    subject, rng = monitor(history_windows=4), np.random.default_rng(0)
    rows = np.stack(
        [*rng.uniform(size=(3, sum(sizes))), rng.integers(36, size=sum(sizes)), rng.uniform(5, 15, sum(sizes))], 1
    )
    parts = np.split(rows, np.cumsum(sizes)[:-1])

    watch = Watch()
    for part in parts:
        watch = subject.saw(watch, part, NOW)
    whole = subject.saw(Watch(), rows, NOW)

    assert np.array_equal(watch.windows, whole.windows)
    assert np.array_equal(watch.waiting, whole.waiting)
    assert (watch.seen, watch.evidence) == (whole.seen, whole.evidence)
    assert watch.seen == len(rows) // WINDOW
    assert len(watch.windows) == min(4, watch.seen)


def test_an_answer_that_is_no_number_does_not_count():
    rows = np.full((3, 5), 0.5)
    rows[1, 2] = np.nan

    watch = monitor().saw(monitor().saw(Watch(), rows, NOW), np.full((WINDOW, 5), 0.5), NOW)

    assert (watch.seen, len(watch.waiting)) == (1, 2)
    assert np.isfinite(watch.windows).all()


def test_without_a_bundle_no_window_is_scored_and_looks_still_count():
    subject = Monitor.of(None, {}, DriftSettings(), WINDOW)

    assert (subject.size, subject.source) == (0, None)
    assert subject.saw(Watch(), np.ones((200, 5)), NOW).state == "unknown"
    assert subject.looked(Watch(), 64, 64, NOW).state == "drift"
    with pytest.raises(ValueError, match="no numbers of the source"):
        subject.rows_of(MODEL.backbone.forward(torch.zeros(1, 3, 32, 32)))
