"""The state of a stream: drift at once, calm only after a while, and always a reason and a time."""

import math
from collections.abc import Iterable
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.drift.evidence import SHIFT, TESTED, Evidence
from tta_server.drift.watch import ASTRAY_IMAGES, CALM_WINDOWS, Limits, Watch

LIMITS = Limits.once_in(1e5)
STRANGE, USUAL = 1e-12, 0.5


def at(minute: int) -> str:
    return f"2026-01-01T00:{minute:02d}:00.000+00:00"


def shown(watch: Watch, windows: int, chance: float, shift: float = USUAL, first: int = 0) -> Watch:
    """Return a watch after windows with such p values, one a minute."""
    for minute in range(first, first + windows):
        chances = dict.fromkeys(TESTED, chance) | {SHIFT: shift}
        watch = watch.after(watch.evidence.after(chances, at(minute)), LIMITS, at(minute))
    return watch


def looks(watch: Watch, *requests: tuple[int, bool]) -> Watch:
    for minute, (rows, at_home) in enumerate(requests):
        watch = watch.looked(rows, 0 if at_home else rows, LIMITS, at(minute))
    return watch


def mixed(watch: Watch, requests: Iterable[tuple[int, int]]) -> list[Watch]:
    """Return what is known before and after each of some requests: their images, and how many looked strange."""
    steps = accumulate(requests, lambda known, one: known.looked(*one, LIMITS, at(0)), initial=watch)
    return list(steps)


def changes(watches: list[Watch]) -> list[int]:
    """Return after which requests it became another whether images look like the source's."""
    return [i for i, (one, other) in enumerate(pairwise(watches), 1) if one.away != other.away]


def test_nothing_is_known_of_a_stream_that_was_not_seen():
    assert (Watch().state, Watch().since, Watch().because, Watch().scores) == ("unknown", "", None, {})


def test_ordinary_windows_are_stable_strange_ones_a_warning_and_then_drift_since_the_first_of_them():
    stable = shown(Watch(), 5, USUAL)
    states = [shown(stable, windows, STRANGE, first=10) for windows in (1, 2, 3)]

    assert (stable.state, stable.because, stable.since) == ("stable", None, at(0))
    assert [watch.state for watch in states] == ["stable", "warning", "drift"]
    assert states[2].since == at(10)
    assert states[2].because in TESTED


def test_drift_ends_only_after_some_ordinary_windows_in_a_row():
    drifting = shown(Watch(), 5, STRANGE)
    nearly = shown(drifting, CALM_WINDOWS - 1, USUAL, first=10)
    again = shown(nearly, 1, STRANGE, first=20)
    over = shown(nearly, 1, USUAL, first=20)

    assert [watch.state for watch in (nearly, again, over)] == ["drift", "drift", "stable"]
    assert again.since == drifting.since
    assert (over.because, over.evidence.log) == (None, 0)


def test_other_classes_are_a_warning_and_no_drift():
    watch = shown(Watch(), 20, USUAL, shift=STRANGE)

    assert (watch.state, watch.because) == ("warning", SHIFT)
    assert shown(watch, CALM_WINDOWS, USUAL, shift=USUAL, first=30).state == "stable"


@pytest.mark.parametrize("rows", [1, 16, 100])
def test_images_that_look_strange_are_drift_once_they_are_enough_since_the_first_of_them(rows):
    enough = math.ceil(ASTRAY_IMAGES / rows)
    home = looks(Watch(), *[(rows, True)] * enough)

    assert home.state == "stable"
    assert looks(home, *[(rows, False)] * (enough - 1)).state == "stable"
    drifting = looks(home, *[(rows, False)] * enough)
    assert (drifting.state, drifting.because, drifting.since) == ("drift", "style", at(0))
    assert looks(drifting, *[(rows, True)] * (enough - 1)).state == "drift"
    assert looks(drifting, *[(rows, True)] * enough).state == "stable"


requests = st.integers(1, 100).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(0, rows)))


@given(st.lists(requests, max_size=60), st.booleans())
def test_between_two_changes_lie_enough_images_of_the_other_kind_more_than_of_this(taken, astray):
    begun = looks(Watch(), (64, not astray))
    watches = mixed(begun, taken)

    for first, last in pairwise([0, *changes(watches)]):
        sign = 1 if watches[last].away else -1
        more = list(accumulate(sign * (2 * away - rows) for rows, away in reversed(taken[first:last])))
        assert max(more) >= ASTRAY_IMAGES, "some of the last requests together"
        assert watches[last].because == ("style" if watches[last].away else None)


@given(st.lists(requests.filter(lambda one: 2 * one[1] < one[0]), min_size=1, max_size=60))
def test_while_fewer_than_half_of_each_request_look_strange_there_is_no_drift_and_what_was_passes(taken):
    assert not changes(mixed(looks(Watch(), (64, True)), taken))
    assert not mixed(looks(Watch(), (64, False)), taken * ASTRAY_IMAGES)[-1].away


@given(st.lists(requests.filter(lambda one: 2 * one[1] > one[0]), min_size=1, max_size=60))
def test_while_more_than_half_of_each_request_look_strange_there_is_drift_that_stays(taken):
    watches = mixed(looks(Watch(), (64, True)), taken * ASTRAY_IMAGES)

    assert watches[-1].state == "drift"
    assert len(changes(watches)) == 1


@pytest.mark.parametrize("rows", [1, 4, 16])
def test_a_stream_of_which_half_looks_strange_at_random_changes_its_state_rarely(rows):
    drawn = np.random.default_rng(0).binomial(rows, 0.5, 64_000 // rows)
    watches = mixed(Watch(), [(rows, int(away)) for away in drawn])

    assert 1 <= len(changes(watches)) <= 64_000 / 500


def test_of_a_stream_that_began_with_both_kinds_nothing_is_known_until_one_prevails():
    both = looks(Watch(), *[(1, bool(i % 2)) for i in range(200)])

    assert both.state == "unknown"
    assert looks(both, (ASTRAY_IMAGES, True)).state == "stable"
    assert looks(both, (ASTRAY_IMAGES, False)).state == "drift"


def test_a_stream_that_looks_as_usual_again_drifts_while_its_scores_say_so():
    drifting = shown(looks(Watch(), (64, False)), 5, STRANGE)
    home = looks(drifting, (64, True))

    assert (home.away, home.state) == (False, "drift")
    assert shown(home, CALM_WINDOWS, USUAL).state == "stable"


def test_a_stream_that_nobody_looks_at_any_more_goes_by_its_scores():
    watch = looks(Watch(), (64, False)).unlooked(LIMITS, at(5))

    assert (watch.state, watch.away, watch.because) == ("stable", False, None)


steps = st.lists(
    st.tuples(st.sampled_from([STRANGE, 0.01, USUAL]), st.sampled_from([STRANGE, USUAL]), st.booleans(), st.booleans()),
    max_size=40,
)


@settings(max_examples=60)
@given(steps)
def test_whatever_comes_a_state_has_its_reason_and_its_time(taken):
    watch, before = Watch(), Watch()
    for minute, (chance, shift, look, at_home) in enumerate(taken):
        watch = (
            watch.looked(16, 0 if at_home else 16, LIMITS, at(minute))
            if look
            else shown(watch, 1, chance, shift, minute)
        )

        assert (watch.because is None) == (watch.state in ("unknown", "stable"))
        assert (watch.since == "") == (watch.state == "unknown")
        assert watch.state == "drift" or not watch.away
        assert watch.state != "unknown" or before.state == "unknown"
        before = watch


def test_so_many_windows_are_kept_and_no_more():
    watch = Watch(evidence=Evidence(log=1.0))
    for minute in range(5):
        watch = watch.scored({"confidence": float(minute)}, 3, at(minute))

    assert watch.windows[:, 3].tolist() == [2, 3, 4]
    assert (watch.seen, watch.scores) == (5, {"confidence": 4})
    assert np.diff(watch.windows[:, 0]).tolist() == [60, 60]
    assert watch.scored({"entropy_ratio": 1.0}, 3, at(9)).windows.shape == (1, 4), "another bundle's are no history"
