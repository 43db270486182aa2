"""The books of one stream."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tta_server.runtime.stream import Stream


def numbered(start: int, count: int) -> np.ndarray:
    """Return `count` images that hold their own number."""
    return np.arange(start, start + count, dtype=np.float32).reshape(count, 1, 1, 1)


def stream() -> Stream:
    return Stream("door", "after", {})


def numbers(window: list[np.ndarray]) -> list[int]:
    return [int(value) for part in window for value in part.reshape(-1)]


@given(parts=st.lists(st.integers(1, 9), max_size=12), asked=st.lists(st.integers(0, 20), max_size=12))
def test_windows_hold_every_image_once_and_in_order(parts, asked):
    door = stream()
    for i, count in enumerate(parts):
        door.offer(numbered(sum(parts[:i]), count))

    taken = [numbers(door.take_window(rows)) for rows in asked]
    rest = numbers(door.take_window(10**9))

    assert [number for window in [*taken, rest] for number in window] == list(range(sum(parts)))
    assert all(len(window) == rows for window, rows in zip(taken, asked, strict=True) if sum(asked) <= sum(parts))
    assert door.window_rows == len(door.window) == 0


@given(parts=st.lists(st.integers(1, 9), min_size=1, max_size=12), rows=st.integers(1, 20))
def test_a_window_is_as_long_as_asked_for_if_there_is_enough(parts, rows):
    door = stream()
    for count in parts:
        door.offer(numbered(0, count))

    assert len(numbers(door.take_window(rows))) == min(rows, sum(parts))
    assert door.window_rows == sum(map(len, door.window)) == max(0, sum(parts) - rows)


def test_taking_a_window_does_not_write_to_what_was_offered():
    door, images = stream(), numbered(0, 5)
    door.offer(images)

    door.take_window(3)

    assert (images == numbered(0, 5)).all()


class Books(RuleBasedStateMachine):
    """What was offered is learnt, dropped, or still waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = stream()
        self.offered = self.replaced = 0

    @rule(count=st.integers(1, 9))
    def offer(self, count: int) -> None:
        self.stream.offer(numbered(0, count))
        self.offered += count

    @rule(rows=st.integers(1, 12))
    def learn(self, rows: int) -> None:
        window = self.stream.take_window(rows)
        if window:
            self.stream.commit({"theta": torch.zeros(1)}, sum(map(len, window)))
            self.replaced += 1

    @rule()
    def reset(self) -> None:
        self.stream.reset({})
        self.replaced += 1
        assert (self.stream.steps, self.stream.window_rows, self.stream.entropy_ratio) == (0, 0, None)

    @invariant()
    def images_are_conserved(self) -> None:
        assert self.offered == self.stream.learnt + self.stream.dropped + self.stream.window_rows
        assert self.stream.window_rows == sum(map(len, self.stream.window))

    @invariant()
    def the_version_counts_how_often_the_state_was_replaced(self) -> None:
        assert self.stream.version == self.replaced >= self.stream.steps


TestBooks = Books.TestCase


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 500)), min_size=1, max_size=20))
def test_recent_values_stay_between_the_smallest_and_the_largest_seen(answers):
    door = stream()

    for entropy, confidence, rows in answers:
        door.observe(entropy, confidence, rows)

    entropies, confidences, counts = zip(*answers, strict=True)
    assert min(entropies) - 1e-9 <= door.entropy_ratio <= max(entropies) + 1e-9  # rounding of the running mean
    assert min(confidences) - 1e-9 <= door.confidence <= max(confidences) + 1e-9
    assert door.images == sum(counts)


def test_the_first_answer_is_the_recent_one():
    door = stream()

    door.observe(0.25, 0.75, 1)

    assert (door.entropy_ratio, door.confidence) == (0.25, 0.75)


def test_a_summary_counts_the_bytes_of_the_state():
    door = stream()
    door.commit({"theta": torch.zeros(3), "steps": torch.zeros((), dtype=torch.int64)}, 2)

    summary = door.summary()

    assert summary["state_bytes"] == 3 * 4 + 8
    assert (summary["state_version"], summary["steps"], summary["images_learnt"]) == (1, 1, 2)


@pytest.mark.parametrize("rows", [0, 5])
def test_no_window_is_taken_from_nothing(rows):
    assert stream().take_window(rows) == []
