"""When a window is due and which is first, against naive models."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tta_server.runtime.fakes import rows
from tta_server.streams.schedule import Pace, Schedule
from tta_server.streams.window import Window, prepared


def window(*arrivals: tuple[float, int]) -> Window:
    """Return a window into which so many images came at each time."""
    filled = Window(4, recent=0)
    for when_s, count in arrivals:
        filled.offer(prepared(rows(count)), "", when_s)
    return filled


# Pace
def test_a_full_window_is_due_at_once():
    assert Pace(4, 2).due_s(window((3.0, 4))) == 3.0


def test_a_window_that_is_not_full_waits_for_ever():
    assert Pace(4, 2).due_s(window((3.0, 3))) is None


def test_an_old_window_is_due_though_it_is_not_full():
    assert Pace(4, 2, max_age_s=10.0).due_s(window((3.0, 1), (5.0, 1))) == 13.0


def test_an_old_window_with_too_few_images_waits():
    assert Pace(4, 3, max_age_s=10.0).due_s(window((3.0, 2))) is None


def test_a_full_window_is_not_due_before_its_least_age():
    assert Pace(4, 2, min_age_s=10.0).due_s(window((3.0, 2), (8.0, 2))) == 13.0


def test_nothing_is_due_in_an_empty_window():
    assert Pace(4, 2, min_age_s=1.0, max_age_s=2.0).due_s(window()) is None


def test_a_busy_stream_with_a_least_age_learns_in_time_from_the_newest():
    pace, subject = Pace(4, 2, min_age_s=10.0), Window(4, recent=0)

    for second in range(10):
        subject.offer(prepared(rows(4, second)), "", float(second))
        subject.displace(pace.surplus(subject, 4, float(second)))

    assert pace.due_s(subject) == 10.0
    assert [row.arrived_s for row in subject] == [9.0] * 4


@pytest.mark.parametrize(("waiting", "request_rows", "surplus"), [(16, 4, 0), (17, 4, 4), (21, 4, 8), (36, 9, 0)])
def test_more_than_four_windows_are_surplus_in_whole_windows(waiting, request_rows, surplus):
    assert Pace(4, 2).surplus(window((0.0, waiting)), request_rows, 1.0) == surplus


@settings(deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 9)), min_size=1, max_size=20),
    min_age_s=st.sampled_from([0.0, 3.0]),
)
def test_surplus_bounds_what_waits_and_never_makes_a_full_window_less(arrivals, min_age_s):
    pace, subject, now_s = Pace(4, 2, min_age_s), Window(4, recent=0), 0.0
    for wait_s, count in arrivals:
        now_s += wait_s
        subject.offer(prepared(rows(count)), "", now_s)
        was_full = len(subject) >= 4
        subject.displace(pace.surplus(subject, count, now_s))
        assert len(subject) <= 4 * max(4, count)
        assert (len(subject) >= 4) == was_full
        assert len(subject) <= 4 or now_s >= subject.began_s + min_age_s


# Schedule
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.floats(0, 9), st.sampled_from([1.0, 2.0]))),
        max_size=60,
    )
)
def test_the_one_that_is_due_longest_is_next(changes):
    schedule, due = Schedule(), {}
    for stream, due_s in changes:
        schedule.set(stream, due_s)
        if due_s is None:
            due.pop(stream, None)
        else:
            due[stream] = due_s
        assert schedule.next() == min(((when_s, name) for name, when_s in due.items()), default=None)


def test_what_is_set_again_and_again_takes_no_more_memory():
    schedule = Schedule()

    for _ in range(1000):
        schedule.set("door", 1.0)

    assert len(schedule._order) == 1


def test_what_changes_again_and_again_takes_no_more_memory_than_there_are_streams():
    schedule = Schedule()
    for number in range(3000):
        schedule.set("yard", 0.5)
        schedule.set("door", float(number))
        assert schedule.next() == (0.0 if number == 0 else 0.5, "door" if number == 0 else "yard")

    assert len(schedule._order) < 100
