"""The sequential test keeps its promise, and sees what there is to see."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from tta_server.drift.evidence import SHIFT, TESTED, Evidence, bet

NOW, LATER = "2026-01-01T00:00:00.000+00:00", "2026-01-01T00:01:00.000+00:00"


def every(chance: float) -> dict[str, float]:
    return dict.fromkeys((*TESTED, SHIFT), chance)


@pytest.mark.parametrize("chance", [1e-9, 0.001, 0.3, 0.9, 0.99995, 1.0])
def test_a_bet_pays_the_mean_over_all_powers(chance):
    assert bet(chance) == pytest.approx(quad(lambda k: k * chance ** (k - 1), 0, 1)[0], rel=1e-3)


def test_without_drift_a_bet_pays_no_more_than_one_on_average():
    paid = quad(lambda x: bet(math.exp(-x)) * math.exp(-x), 0, 200, limit=200)[0]  # p = exp(-x): it is steep near 0

    assert 0.98 < paid <= 1


@pytest.mark.parametrize("alike", [True, False])
def test_while_nothing_drifts_alarms_are_as_rare_as_promised(alike):
    rng, windows, alarms, evidence, promised = np.random.default_rng(0), 20_000, 0, Evidence(), 100

    for _ in range(windows):
        drawn = rng.uniform(size=len(TESTED) + 1)
        drawn[:] = drawn[0] if alike else drawn
        evidence = evidence.after(dict(zip((*TESTED, SHIFT), drawn, strict=True)), NOW)
        if evidence.log >= math.log(promised):
            alarms, evidence = alarms + 1, Evidence()

    assert 0 < alarms <= windows / promised


def test_one_window_is_never_enough_and_three_strange_ones_are():
    evidence = Evidence()
    logs = [(evidence := evidence.after(every(1e-12), LATER if i else NOW)).log for i in range(3)]

    assert logs == pytest.approx([math.log(100) * (i + 1) for i in range(3)])
    assert logs[0] < math.log(1e5) / 2 < logs[1]
    assert logs[2] >= math.log(1e5)
    assert evidence.began == NOW


def test_one_score_alone_is_enough_and_is_named():
    evidence = Evidence()
    for _ in range(10):
        evidence = evidence.after(every(0.5) | {"feature_distance_ratio": 1e-12}, NOW)

    assert evidence.log >= math.log(1e5)
    assert evidence.loudest == "feature_distance_ratio"


def test_other_classes_alone_are_no_evidence_of_drift():
    evidence = Evidence()
    for _ in range(10):
        evidence = evidence.after(every(0.5) | {SHIFT: 1e-12}, NOW)

    assert (evidence.log, evidence.began) == (0, "")
    assert evidence.each[SHIFT] >= math.log(1e5)
    assert (evidence.calm, evidence.same) == (10, 0)


@given(st.lists(st.floats(1e-12, 1), max_size=30))
def test_evidence_is_never_below_nothing_and_never_without_bound(chances):
    evidence = Evidence()
    for chance in chances:
        evidence = evidence.after(every(chance), NOW)

        assert 0 <= evidence.log <= math.log(1e12) + 1e-9
        assert bool(evidence.began) == (evidence.log > 0)
