"""What learning may take of the device's time while requests wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.runtime.rest import Rest

steps_s = st.lists(st.floats(1e-3, 60.0), min_size=1, max_size=40)
shares = st.floats(0.01, 1.0)


@given(shares, steps_s, st.floats(0.0, 1e3))
def test_steps_take_at_most_their_share_of_the_time_once_each_has_rested(share, lengths_s, began_s):
    rest, now_s = Rest(share), began_s

    for length_s in lengths_s:
        now_s = max(now_s, rest.rested_s)
        rest.took(now_s, now_s + length_s)
        now_s += length_s

    whole_s = max(now_s, rest.rested_s) - began_s
    assert sum(lengths_s) <= share * whole_s * (1 + 1e-6) + 1e-6


@given(shares, steps_s)
def test_no_time_is_lost_beyond_the_share(share, lengths_s):
    rest, now_s = Rest(share), 0.0

    for length_s in lengths_s:
        rest.took(now_s, now_s + length_s)
        now_s = rest.rested_s

    assert sum(lengths_s) == pytest.approx(share * now_s, rel=1e-6)


def test_the_first_step_need_not_rest():
    assert Rest(0.1).rested_s == 0


def test_without_a_share_no_step_is_ever_taken_while_requests_wait():
    rest = Rest(0.0)
    rest.took(1.0, 2.0)

    assert rest.rested_s == float("inf")
