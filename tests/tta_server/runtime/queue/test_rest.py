"""What learning may take of the device's time while requests wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.runtime.queue.rest import Rest

steps_s = st.lists(st.floats(1e-3, 60.0), min_size=1, max_size=40)
shares = st.floats(0.01, 1.0)


@given(shares, steps_s, st.floats(0.0, 1e3))
def test_steps_take_at_most_their_share_of_the_time_once_each_has_rested(share, lengths_s, began_s):
    rest, now_s = Rest(share), began_s

    for length_s in lengths_s:
        now_s = rest.turn_s(now_s, waits=True)
        rest.took(now_s, now_s + length_s)
        now_s += length_s

    whole_s = rest.turn_s(now_s, waits=True) - began_s
    assert sum(lengths_s) <= share * whole_s * (1 + 1e-6) + 1e-6


@given(shares, steps_s)
def test_no_time_is_lost_beyond_the_share(share, lengths_s):
    rest, now_s = Rest(share), 0.0

    for length_s in lengths_s:
        rest.took(now_s, now_s + length_s)
        now_s = rest.turn_s(0.0, waits=True)

    assert sum(lengths_s) == pytest.approx(share * now_s, rel=1e-6)


def test_the_first_step_need_not_rest():
    assert Rest(0.1).turn_s(0.0, waits=True) == 0


def test_without_a_share_no_step_is_ever_taken_while_requests_wait():
    rest = Rest(0.0)
    rest.took(1.0, 2.0)

    assert rest.turn_s(0.0, waits=True) == float("inf")
    assert rest.turn_s(0.0, waits=False) == 0


@given(st.integers(1, 9), st.floats(0.0, 1e3), st.floats(0.0, 1e3), st.floats(0.0, 10.0))
def test_requests_come_until_none_was_answered_for_a_second(requests, began_s, took_s, later_s):
    rest = Rest(0.5)
    assert not rest.asked(began_s)

    rest.answered(requests, began_s, began_s + took_s)

    assert rest.asked(began_s + took_s + later_s) == (began_s + took_s + later_s < began_s + took_s + 1)


@given(st.integers(1, 9), st.floats(0.0, 1e3), st.floats(0.0, 1e3))
def test_callers_who_were_answered_together_are_expected_for_as_long_as_that_took(requests, began_s, took_s):
    rest = Rest(0.0)
    rest.answered(requests, began_s, began_s + took_s)

    quiet_s = rest.turn_s(0.0, waits=False)

    assert quiet_s == pytest.approx(began_s + took_s + min(took_s, 0.05) if requests > 1 else 0)
