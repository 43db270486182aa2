"""What scores are without drift: a p value that keeps its promise, whatever the score looks like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.drift.nulls import Null, nulls, window_size
from tta_server.drift.scores import LEVELS
from tta_server.models import load
from tta_server.telemetry.closed_sets import DRIFT_SCORES

DRAWS = 20_000
SHAPES = {
    "normal": lambda rng: rng.normal(3, 2, DRAWS),
    "skewed": lambda rng: rng.gamma(2, 1, DRAWS),
    "of few values": lambda rng: rng.binomial(16, 0.05, DRAWS) / 16,
    "one value": lambda rng: np.full(DRAWS, 0.5),
}


def known(values: np.ndarray, rises: bool = False) -> Null:
    return Null(float(values.mean()), float(values.std()), tuple(np.quantile(values, LEVELS).tolist()), rises)


@pytest.mark.parametrize("rises", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_small_p_is_as_rare_as_it_says(shape, rises):
    drawn = SHAPES[shape]
    null = known(drawn(np.random.default_rng(0)), rises)

    found = np.array([null.p(value) for value in drawn(np.random.default_rng(1)).tolist()])

    for chance in (0.5, 0.1, 0.05, 0.01, 0.002):
        assert (found <= chance).mean() <= 1.3 * chance + 3 * np.sqrt(chance / DRAWS)


@settings(max_examples=50)
@given(st.floats(-50, 50), st.floats(0, 50), st.booleans())
def test_what_is_farther_out_is_never_likelier(value, more, rises):
    null = known(SHAPES["normal"](np.random.default_rng(0)), rises)
    middle = null.quantiles[LEVELS.index(0.5)]
    out = value + more if rises or value >= middle else value - more

    assert 1e-12 <= null.p(out) <= null.p(value) + 1e-12
    assert null.p(value) <= 1
    assert null.p(out) <= null.p(out, widened=1.25) + 1e-12 or abs(out - null.mean) < null.std or rises


def test_between_the_quantiles_p_is_what_numpy_interpolates():
    null = known(SHAPES["normal"](np.random.default_rng(0)))
    for value in np.linspace(null.quantiles[0], null.quantiles[-1], 101)[1:-1].tolist():
        below = np.interp(value, null.quantiles, LEVELS)

        assert null.p(value) == pytest.approx(2 * min(below, 1 - below), abs=1e-12)
        assert null.z(value) == pytest.approx((value - null.mean) / null.std)


def test_a_score_that_never_varied_is_ordinary_or_as_strange_as_can_be():
    null = known(SHAPES["one value"](None))

    assert (null.z(0.5), null.p(0.5)) == (0, pytest.approx(1, abs=2e-3))
    assert (null.z(0.6), null.z(0.4), null.p(0.6)) == (1000, -1000, 1e-12)


def test_the_embedded_bundle_knows_every_score_and_the_largest_window_that_is_asked_for():
    reference = load("glyphs").reference

    assert [window_size(reference, most) for most in (8, 16, 100, 1000)] == [16, 16, 64, 256]
    assert nulls(reference, 64).keys() == set(DRIFT_SCORES)
