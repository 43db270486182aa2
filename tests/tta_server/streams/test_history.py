"""Which earlier states are kept, and which go first."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.models.backbone import size_bytes
from tta_server.streams.history import History, Kept

SIZE = 8


def kept(version: int, passed: bool = False, size: int = 2) -> Kept:
    return Kept(version, version, {"theta": torch.zeros(size)}, passed)


def filled(*states: Kept, most: int = 3 * SIZE) -> History:
    history = History(most)
    for state in states:
        history.add(state)
    return history


@settings(deadline=None)
@given(
    states=st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=30),
    most=st.integers(0, 200),
)
def test_the_budget_is_kept_and_the_newest_that_passed_is_never_forgotten(states, most):
    history = History(most)
    for version, (passed, size) in enumerate(states):
        history.add(kept(version, passed, size))

        newest = max((v for v, (good, _) in enumerate(states[: version + 1]) if good), default=None)
        found = history.newest_passed()
        assert (found.version if found else None) == newest
        assert history.bytes == sum(size_bytes(each.state) for each in history)
        assert history.bytes <= max(most, size_bytes(found.state) if found else 0)
        assert history.versions == sorted(history.versions)


def test_the_oldest_goes_first():
    assert filled(*map(kept, range(5))).versions == [2, 3, 4]


def test_what_passed_outlives_what_did_not():
    assert filled(kept(0, True), kept(1), kept(2, True), kept(3), kept(4)).versions == [0, 2, 4]


def test_the_newest_state_outlives_older_ones_that_passed():
    assert filled(kept(0, True), kept(1, True), kept(2, True), kept(3)).versions == [1, 2, 3]


def test_a_state_that_passed_stays_even_if_it_is_too_large():
    assert filled(kept(0, True, size=100), kept(1)).versions == [0]


def test_without_a_budget_only_the_newest_that_passed_stays():
    assert filled(kept(0), kept(1, True), kept(2), kept(3, True), kept(4), most=0).versions == [3]


def test_a_version_is_found_as_long_as_it_is_kept():
    history = filled(*map(kept, range(5)))

    assert history.find(4).version == 4
    assert history.find(0) is None


def test_the_newest_that_passed_may_be_asked_for_other_than_a_state():
    good, same = kept(1, True), kept(2, True)
    history = filled(kept(0, True), good, same._replace(state=good.state))

    assert history.newest_passed().version == 2
    assert history.newest_passed(good.state).version == 0


def test_clearing_forgets_everything():
    history = filled(kept(0, True), kept(1))

    history.clear()

    assert (len(history), history.bytes, history.newest_passed()) == (0, 0, None)
