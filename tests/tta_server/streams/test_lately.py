"""How much of what a stream sees of late is of each domain."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.streams.lately import Lately, shares

RUNS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 300)), max_size=30)


def counted(runs: list[tuple[int, int]]) -> tuple[list[Lately], int]:
    """Return what is counted of four domains that a stream has seen in turn, and how many images it has seen."""
    found, seen = [Lately()] * 4, 0
    for which, rows in runs:
        seen += rows
        found[which] = found[which].after(rows, seen, f"{seen}")
    return found, seen


@given(RUNS)
def test_shares_are_those_of_weights_that_fade_with_each_image_of_the_stream(runs):
    found, seen = counted(runs)
    weights, so_far = [0.0] * 4, 0
    for which, rows in runs:
        so_far += rows
        weights[which] += rows * math.exp((so_far - seen) / 256)

    expected = [weight / sum(weights) if runs else 0.0 for weight in weights]

    assert shares(found, seen) == pytest.approx(expected)
    assert sum(shares(found, seen)) == pytest.approx(1 if runs else 0)


@given(RUNS)
def test_all_images_are_counted_and_the_time_is_that_of_the_last(runs):
    found, seen = counted(runs)

    assert sum(each.images for each in found) == seen
    if runs:
        assert found[runs[-1][0]].time == f"{seen}"


def test_a_domain_that_does_not_come_back_is_forgotten_by_and_by():
    fog, rain = Lately().after(64, 64, ""), Lately().after(256, 320, "")

    assert shares([fog, rain], 320) == pytest.approx([64 / math.e / (64 / math.e + 256), 256 / (64 / math.e + 256)])


def test_a_count_that_went_back_weighs_no_more_than_it_did():
    assert replace(Lately(), weight=3.0, seen=100).weighs(50) == 3.0
