"""What is kept window by window is what river keeps of the same numbers; its detector of change sees the same event.

river keeps an object for each number and writes to it; here a stream is a value. They share no code.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from river.drift import ADWIN
from river.stats import EWMean, Min, Sum

from tta_server.drift.evidence import TESTED, Evidence, bet
from tta_server.drift.monitor import Monitor
from tta_server.drift.watch import Watch
from tta_server.models import glyphs, load
from tta_server.settings import DriftSettings

NOW = "2026-01-01T00:00:00.000+00:00"
WINDOW = 64
MODEL = load("glyphs")


def rows_of(images: np.ndarray, subject: Monitor) -> np.ndarray:
    return subject.rows_of(MODEL.backbone.forward(torch.from_numpy(images).float() / 255))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.fixed_dictionaries({name: st.floats(0.05, 1) for name in (*TESTED, "prediction_divergence_ratio")})))
def test_evidence_is_the_sum_of_what_was_won_above_its_least(windows):
    evidence, won, least = Evidence(), Sum(), Min()
    least.update(0.0)

    for chances in windows:
        evidence = evidence.after(chances, NOW)
        won.update(math.log(np.mean([bet(chances[name]) for name in TESTED])))
        least.update(won.get())

    assert evidence.log == pytest.approx(min(math.log(1e12), won.get() - least.get()), abs=1e-9)


def test_shares_of_classes_are_exponentially_weighted_means_over_windows():
    subject, watch = Monitor.of(MODEL.reference, {}, DriftSettings(), WINDOW), Watch()
    classes = np.random.default_rng(0).integers(36, size=(6, WINDOW))
    means = [EWMean(fading_factor=1 / 4) for _ in range(36)]

    for window in classes:
        rows = np.full((WINDOW, 5), 0.5)
        rows[:, 3] = window
        watch = subject.saw(watch, rows, NOW)
        for number, mean in enumerate(means):
            mean.update(float((window == number).mean()))

    np.testing.assert_allclose(watch.shares, [mean.get() for mean in means], rtol=1e-5)


def test_a_detector_that_knows_only_the_stream_s_own_past_sees_the_same_change():
    subject, watch = Monitor.of(MODEL.reference, {}, DriftSettings(), WINDOW), Watch()
    clean = glyphs.images("test")[0][: 40 * WINDOW]
    noisy = clean[: 10 * WINDOW] + np.random.default_rng(0).normal(0, 60, (10 * WINDOW, *clean.shape[1:]))
    changes, events = [], []

    adwin = ADWIN(min_window_length=1, grace_period=1, clock=1)
    for number, window in enumerate(np.split(np.concatenate([clean, noisy.clip(0, 255).astype(np.uint8)]), 50)):
        before, watch = watch, subject.saw(watch, rows_of(window, subject), NOW)
        adwin.update(watch.scores["feature_distance_ratio"])
        changes += [number] if adwin.drift_detected else []
        events += [number] if watch.state == "drift" != before.state else []

    assert len(events) == 1
    assert 40 <= events[0] <= 43
    assert changes
    assert all(events[0] - 3 <= change <= events[0] + 6 for change in changes)
