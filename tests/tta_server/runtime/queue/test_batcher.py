"""The queue against a simple model of it, under a clock that we turn."""

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tta_server.runtime.queue.batcher import Batcher


@dataclass(frozen=True)
class Request:
    number: int
    key: str
    rows: int
    arrived_s: float


def key(request: Request) -> str:
    return request.key


class Queue(RuleBasedStateMachine):
    """Requests come, time passes, groups leave."""

    @initialize(
        max_rows=st.integers(1, 8),
        delay_s=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    )
    def start(self, max_rows: int, delay_s: float) -> None:
        self.max_rows, self.delay_s = max_rows, delay_s
        self.batcher: Batcher[Request] = Batcher(max_rows, delay_s)
        self.now_s = 0.0
        self.waiting: list[Request] = []
        self.left: list[Request] = []
        self.taken: list[Request] = []
        self.accepted = 0

    @rule(key=st.sampled_from("abc"), rows=st.integers(1, 10))
    def a_request_comes(self, key: str, rows: int) -> None:
        request = Request(self.accepted, key, rows, self.now_s)
        self.batcher.put(request)
        self.waiting.append(request)
        self.accepted += 1

    @rule(seconds=st.floats(0.001, 0.5))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def a_group_is_taken(self) -> None:
        self._take(self.now_s)

    @rule()
    def a_group_is_taken_when_it_is_due(self) -> None:
        due_s = self.batcher.due_s()
        if due_s is not None:
            self.now_s = max(self.now_s, due_s)
            assert self._take(self.now_s)

    @rule()
    def nothing_is_waited_for_any_more(self) -> None:
        while self.waiting:
            assert self._take(float("inf"))

    @rule(place=st.integers(0, 5))
    def a_caller_hangs_up(self, place: int) -> None:
        if not self.waiting:
            return
        request = self.waiting[place % len(self.waiting)]
        self.batcher.remove(request)
        self.batcher.remove(request)  # that it is not there does no harm
        self._leave([request])

    @rule()
    def the_queue_is_cleared(self) -> None:
        gone = self.batcher.clear()
        assert gone == self.waiting
        self._leave(gone)

    def _take(self, now_s: float) -> list[Request]:
        group = self.batcher.take(now_s, key)
        assert group == self._expected(now_s)
        if len(group) > 1:
            assert sum(request.rows for request in group) <= self.max_rows
        self._leave(group)
        self.taken += group
        return group

    def _expected(self, now_s: float) -> list[Request]:
        """The oldest decides; those of its key follow in order of arrival while there is room."""
        if not self.waiting:
            return []
        oldest = self.waiting[0]
        alike = [request for request in self.waiting if request.key == oldest.key]
        count = 1
        while count < len(alike) and sum(request.rows for request in alike[: count + 1]) <= self.max_rows:
            count += 1
        full = count < len(alike) or sum(request.rows for request in alike) >= self.max_rows
        due = now_s >= oldest.arrived_s + self.delay_s
        return alike[:count] if full or due else []

    def _leave(self, group: list[Request]) -> None:
        self.left += group
        self.waiting = [request for request in self.waiting if request not in group]

    @invariant()
    def rows_are_counted(self) -> None:
        if hasattr(self, "batcher"):
            assert self.batcher.rows == sum(request.rows for request in self.waiting)

    @invariant()
    def the_oldest_says_when_a_group_is_due(self) -> None:
        if hasattr(self, "batcher"):
            expected = self.waiting[0].arrived_s + self.delay_s if self.waiting else None
            assert self.batcher.due_s() == expected

    @invariant()
    def who_waits_for_the_device_does_not_wait_for_company_alone(self) -> None:
        if hasattr(self, "batcher"):
            full = sum(request.rows for request in self.waiting) >= self.max_rows
            due = any(request.arrived_s + self.delay_s <= self.now_s for request in self.waiting)
            assert self.batcher.waits(self.now_s) == (full or due)

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        everything = [*self.left, *self.batcher.clear()]
        assert sorted(request.number for request in everything) == list(range(self.accepted))
        for letter in "abc":
            numbers = [request.number for request in self.taken if request.key == letter]
            assert numbers == sorted(numbers)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def batcher(*requests: Request, max_rows: int = 4, delay_s: float = 0.0) -> "Batcher[Request]":
    filled: Batcher[Request] = Batcher(max_rows, delay_s)
    for request in requests:
        filled.put(request)
    return filled


def test_nothing_leaves_an_empty_queue():
    assert batcher().take(0.0, key) == []
    assert batcher().due_s() is None


def test_a_request_larger_than_a_group_leaves_alone():
    large, small = Request(0, "a", 9, 0.0), Request(1, "a", 1, 0.0)

    assert batcher(large, small).take(0.0, key) == [large]


def test_a_small_request_does_not_overtake_an_older_one_of_its_key():
    first, second, third = Request(0, "a", 2, 0.0), Request(1, "a", 3, 0.0), Request(2, "a", 1, 0.0)

    assert batcher(first, second, third).take(0.0, key) == [first]


def test_a_full_group_does_not_wait():
    requests = [Request(i, "a", 2, 0.0) for i in range(2)]

    assert batcher(*requests, delay_s=10.0).take(0.0, key) == requests


# When to come again
def full(taken: list[tuple[float, int]], now_s: float) -> int:
    """Return what a queue of 100 images tells those who come at `now_s`, after groups were taken."""
    batcher: Batcher[Request] = Batcher(10)
    for place, (taken_s, rows) in enumerate(taken):
        batcher.put(Request(place, "a", rows, 0.0))
        batcher.take(taken_s, key)
    for place in range(10):
        batcher.put(Request(place, "a", 10, 0.0))
    return batcher.emptied_in_s(now_s)


@pytest.mark.parametrize(("pace", "seconds"), [(1000, 1), (100, 1), (50, 2), (20, 5), (10, 10)])
def test_who_finds_the_queue_full_is_told_when_it_will_be_empty_at_the_pace_of_late(pace, seconds):
    interval_s = 10 / pace
    taken = [(interval_s * place, 10) for place in range(9)]

    assert full(taken, interval_s * 9) == seconds


def test_without_a_recent_group_there_is_no_pace_and_another_try_may_follow_soon():
    assert full([], 5.0) == 1
    assert full([(0.0, 1)], 500.0) == 1


def test_nobody_is_sent_away_for_more_than_a_minute():
    assert full([(0.0, 1)], 9.0) == 60
