import math

import numpy as np
import pytest

from tta_server.guard import risk

TOLERANCE, WINDOWS = 0.2, 200


def first_alarm(excesses, windows=WINDOWS):
    evidence = risk.fresh()
    for count, excess in enumerate(excesses, 1):
        evidence = risk.weigh(evidence, float(excess), TOLERANCE, windows)
        if risk.alarmed(evidence, windows):
            return count
    return math.inf


def correlated(rng, count, mean, spread):
    """Return values of that mean whose signs persist: windows of a video resemble one another."""
    signs = np.where(np.cumsum(rng.random(count) < 0.1) % 2, 1, -1)
    return mean + spread * signs


@pytest.mark.parametrize("draw", ["coins", "uniform", "constant"])
def test_false_alarms_are_as_rare_as_promised(draw):
    rng = np.random.default_rng(0)
    draws = {
        "coins": lambda: np.where(rng.random(2000) < 0.6, 1.0, -1.0),  # mean 0.2, the widest spread there is
        "uniform": lambda: rng.uniform(-0.3, 0.7, 2000),
        "constant": lambda: np.full(2000, TOLERANCE),
    }

    until = [min(first_alarm(draws[draw]()), 2000) for _ in range(60)]

    # The promise is a mean of at least WINDOWS, here cut at 2000, which only lowers it.
    assert np.mean(until) >= WINDOWS


def test_streams_that_are_not_worse_never_alarm():
    rng = np.random.default_rng(1)

    assert first_alarm(rng.normal(-0.1, 0.1, 3000).clip(-1, 1), 10_000) == math.inf
    assert first_alarm(correlated(rng, 3000, 0.0, 0.15), 10_000) == math.inf


@pytest.mark.parametrize(("excess", "within"), [(0.9, 30), (0.5, 60), (0.3, 250)])
def test_harm_is_found_the_sooner_the_greater_it_is(excess, within):
    assert first_alarm([excess] * 1000, 10_000) <= within


def test_a_long_good_past_does_not_hide_harm():
    assert first_alarm([-0.8] * 2000 + [0.7] * 100, 10_000) <= 2000 + 40


def test_the_lower_bound_grows_with_the_excess_and_falls_again():
    evidence, bounds = risk.fresh(), []
    for excess in [0.0] * 300 + [0.6] * 300 + [-0.5] * 300:
        evidence = risk.weigh(evidence, excess, TOLERANCE, 1000)
        bounds.append(risk.lower_bound(evidence, 1000))

    assert bounds[0] < -0.5
    assert -0.5 <= bounds[299] < 0
    assert 0.2 <= bounds[599] <= 0.4  # the excess over the tolerated one is 0.4
    assert bounds[899] < 0


def test_the_alarm_is_that_the_lower_bound_is_not_negative():
    evidence = risk.fresh()
    for excess in [0.4] * 200:
        evidence = risk.weigh(evidence, excess, TOLERANCE, 1000)
        assert risk.alarmed(evidence, 1000) == (risk.lower_bound(evidence, 1000) >= 0)
