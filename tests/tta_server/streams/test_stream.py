"""The books of one stream."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.tta_server.runtime.fakes import hard_tent, rows
from tta_server.guard.judge import Unguarded
from tta_server.streams.history import History
from tta_server.streams.present import present
from tta_server.streams.stream import Method, Stream
from tta_server.streams.window import Window, prepared

METHOD = Method(hard_tent(), {"theta": torch.zeros(3), "steps": torch.zeros((), dtype=torch.int64)}, Unguarded())
SIZE = 3 * 4 + 8


def stream(history_bytes: int = 10 * SIZE) -> Stream:
    window = Window(4, recent=0)
    return Stream("door", "after", METHOD, METHOD.initial, METHOD.guard.start(), window, History(history_bytes))


def state(value: float) -> dict[str, torch.Tensor]:
    return {"theta": torch.full((3,), float(value)), "steps": torch.tensor(1)}


class Books(RuleBasedStateMachine):
    """What was offered is learnt, dropped, or still waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = stream()
        self.offered = self.replaced = 0

    @rule(count=st.integers(1, 9))
    def offer(self, count: int) -> None:
        self.stream.window.offer(prepared(rows(count, self.offered)), "", 0.0)
        self.offered += count

    @rule(count=st.integers(1, 12), passed=st.booleans())
    def learn(self, count: int, passed: bool) -> None:
        window = self.stream.window.take(count)
        if window:
            self.stream.commit(state(self.replaced), len(window), passed)
            self.replaced += 1

    @rule()
    def roll_back(self) -> None:
        kept = self.stream.history.newest_passed()
        if kept:
            self.stream.go_to(kept.state, kept.steps, kept.passed)
            self.replaced += 1
            assert self.stream.state is kept.state

    @rule()
    def restart(self) -> None:
        waiting = len(self.stream.window)
        self.stream.restart()
        self.replaced += 1
        assert (self.stream.state, self.stream.steps) == (METHOD.initial, 0)
        assert len(self.stream.window) == waiting

    @rule()
    def reset(self) -> None:
        waiting = len(self.stream.window)
        assert self.stream.reset() == waiting
        self.stream.dropped["reset"] += waiting  # as whoever is told of it writes down
        self.replaced += 1
        assert (self.stream.steps, len(self.stream.window), self.stream.entropy_ratio) == (0, 0, None)

    @invariant()
    def images_are_conserved(self) -> None:
        dropped = sum(self.stream.dropped.values())
        assert self.offered == self.stream.learnt + dropped + len(self.stream.window)

    @invariant()
    def the_version_counts_how_often_the_state_was_replaced(self) -> None:
        assert self.stream.version == self.replaced >= self.stream.steps

    @invariant()
    def memory_is_counted_once(self) -> None:
        states = [kept.state for kept in self.stream.history if kept.version != self.stream.version]
        own = 0 if self.stream.state is METHOD.initial else SIZE
        images = sum(row.image.nbytes for row in self.stream.window)
        assert self.stream.bytes == {"state": own, "history": SIZE * len(states), "window": images}


TestBooks = Books.TestCase


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 500)), min_size=1, max_size=20))
def test_recent_values_stay_between_the_smallest_and_the_largest_seen(answers):
    door = stream()

    for entropy, confidence, count in answers:
        door.observe(entropy, confidence, count)

    entropies, confidences, counts = zip(*answers, strict=True)
    assert min(entropies) - 1e-9 <= door.entropy_ratio <= max(entropies) + 1e-9  # rounding of the running mean
    assert min(confidences) - 1e-9 <= door.confidence <= max(confidences) + 1e-9
    assert door.images == sum(counts)


def test_the_first_answer_is_the_recent_one():
    door = stream()

    door.observe(0.25, 0.75, 1)

    assert (door.entropy_ratio, door.confidence) == (0.25, 0.75)


def test_a_summary_counts_what_was_learnt():
    door = stream()
    door.commit(state(1.0), 2, passed=False)

    summary = door.summary()

    assert (summary.state_version, summary.steps, summary.images_learnt) == (1, 1, 2)


def test_a_stream_that_learnt_nothing_has_no_state_of_its_own():
    door = stream()
    assert door.bytes["state"] == 0

    door.commit(state(1.0), 2, passed=False)
    assert door.bytes["state"] == SIZE

    door.restart()
    assert door.bytes["state"] == 0
    assert door.bytes["history"] == SIZE


def test_a_reset_stream_keeps_its_earlier_versions_and_loses_its_verdict():
    door = stream()
    door.commit(state(1.0), 2, passed=True)
    door.serve, door.restores, door.frozen = "source", 2, "taken back"

    door.reset()

    assert door.history.versions == [1]
    assert (door.serve, door.restores, door.frozen) == ("adapted", 0, "")


def test_the_source_answers_if_the_mode_or_the_guard_says_so():
    said = {}
    for mode in ("after", "inline", "shadow", "off"):
        for serve in ("adapted", "source"):
            door = stream()
            door.mode, door.serve = mode, serve
            said[mode, serve] = door.answers_as_source

    assert {key for key, as_source in said.items() if not as_source} == {
        ("after", "adapted"),
        ("inline", "adapted"),
        ("inline", "source"),  # decided request by request, by the learner
    }


def test_only_some_modes_gather_windows():
    door = stream()

    assert {
        mode for mode in ("after", "inline", "shadow", "off") if setattr(door, "mode", mode) or door.learns_later
    } == {
        "after",
        "shadow",
    }


def test_details_and_the_summary_say_different_things():
    door = stream()

    assert not door.details().keys() & door.summary().told().keys()


@pytest.mark.parametrize(
    ("mode", "serve", "unweighed", "apart", "frozen", "restores", "because"),
    [
        ("after", "adapted", False, False, "", 2, ""),
        ("after", "adapted", True, False, "", 0, "new"),
        ("after", "adapted", True, False, "", 2, "guard"),
        ("inline", "adapted", True, False, "", 0, ""),
        ("after", "source", False, False, "", 0, "guard"),
        ("inline", "source", False, False, "", 2, "guard"),
        ("shadow", "source", True, False, "", 0, "shadow"),
        ("off", "adapted", False, True, "", 0, "off"),
        ("after", "adapted", False, True, "", 0, "home"),
        ("off", "source", True, False, "it was taken back", 3, "frozen"),
    ],
)
def test_the_source_answers_for_one_reason(mode, serve, unweighed, apart, frozen, restores, because):
    now = present(mode, serve, unweighed, apart, frozen, restores)

    assert (now.source_because, now.answers) == (because, "source" if because else "adapted")
    assert (now.frozen, now.restores_in_a_row, now.domain) == (frozen, restores, "")
    assert now.learner("door") == ("door" if because in ("", "new", "guard", "shadow") else "")
