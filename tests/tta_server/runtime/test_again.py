"""Images that no window takes are not learnt from, but the guard looks at what is answered to them."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.states import bits
from tests.tta_server.runtime.fakes import WHO, Scripted, Wired, ask, dark, learn_all, rows, shed_all, wired
from tests.tta_server.runtime.told_apart import frozen, telling
from tta_server.guard.judge import Unguarded
from tta_server.guard.verdict import Admission
from tta_server.streams.stream import Stream

WINDOW = 8


@dataclass(frozen=True)
class Looks(Scripted):
    """Commits every step, and says of images that are not learnt from what it is told; remembers how many it saw."""

    words: tuple[str, ...] = ("commit",)
    says: list[str] = field(default_factory=lambda: ["source"])
    seen: list[int] = field(default_factory=list)

    def look(self, memory, x, frozen, answered) -> Admission:
        assert len(frozen.logits) == len(answered.logits) == len(x)
        self.seen.append(len(x))
        if self.says[-1] == "fail":
            raise RuntimeError("no look today")
        return Admission(False, "contradicted", "as told", memory, self.says[-1])


def learnt(guard: Scripted | Unguarded, **sections: object) -> Wired:
    """Return a worker with a stream that has learnt from one window."""
    judge = None if isinstance(guard, Unguarded) else guard
    subject = wired(window=WINDOW, judge=judge, duplicate_memory=256, **sections)
    ask(subject, "door", rows(WINDOW))
    learn_all(subject)
    assert door(subject).steps == 1
    return subject


def door(subject: Wired) -> Stream:
    return subject.worker.parts.registry.existing("door")


def repeat(subject: Wired, count: int) -> None:
    """Show images of the window that was learnt from again, one after the other."""
    for place in range(count):
        ask(subject, "door", rows(WINDOW)[place % WINDOW][None])
        learn_all(subject)


def test_a_window_of_repeated_images_is_looked_at_and_changes_nothing_but_who_answers():
    guard = Looks()
    subject = learnt(guard)
    before = bits(door(subject).state)

    repeat(subject, WINDOW - 1)
    assert (guard.seen, door(subject).serve) == ([], "adapted")
    repeat(subject, 1)

    assert (guard.seen, door(subject).serve) == ([WINDOW], "source")
    assert (bits(door(subject).state), door(subject).steps, door(subject).version) == (before, 1, 1)
    assert not ask(subject, "door", rows(1)).adapted
    assert door(subject).dropped == {"duplicate": WINDOW + 1}


def test_it_is_written_down_once_each_time_that_another_answers(tmp_path):
    guard = Looks()
    subject = learnt(guard, storage=str(tmp_path))

    repeat(subject, 2 * WINDOW)
    guard.says.append("adapted")
    repeat(subject, 2 * WINDOW)

    assert guard.seen == [WINDOW] * 4
    assert door(subject).serve == "adapted"
    told = [entry for entry in subject.audited() if entry.event == "skip"]
    assert [(entry.cause, entry.reason, entry.rows) for entry in told] == [("contradicted", "as told", 0)] * 2


@pytest.mark.parametrize("words", ["commit/source", "skip"])
def test_whoever_answers_now_and_whatever_became_of_windows_they_are_looked_at(words):
    guard = Looks(("commit", words))
    subject = learnt(guard)
    ask(subject, "door", rows(WINDOW, 1))
    learn_all(subject)
    guard.seen.clear()

    repeat(subject, WINDOW)

    assert guard.seen == [WINDOW]


@pytest.mark.parametrize("word", ["skip", "reject", "fail"])
def test_a_window_that_is_not_learnt_from_changes_no_bit_of_the_state(word):
    subject = wired(judge=Scripted(("commit", word)))
    ask(subject, "door", rows(4))
    learn_all(subject)
    before = bits(subject.stream("door").state)

    ask(subject, "door", rows(4, 1))
    learn_all(subject)

    assert bits(subject.stream("door").state) == before
    assert subject.stream("door").version == 1


def test_a_window_of_too_few_pictures_is_looked_at():
    guard = Looks(("commit", "skip"))
    subject = learnt(guard)

    ask(subject, "door", rows(WINDOW, 1))
    learn_all(subject)

    assert (guard.seen, door(subject).serve, door(subject).steps) == ([WINDOW], "source", 1)


def test_a_domain_that_has_only_begun_is_looked_at():
    guard = Looks()
    subject = telling(judge=guard, duplicate_memory=256)
    ask(subject, "door", dark(8))
    learn_all(subject)
    domain = subject.worker.parts.registry.existing("door@1")
    assert (domain.begun, domain.steps, domain.present.answers) == (8, 0, "adapted")

    for place in range(16):
        ask(subject, "door", dark(8)[place % 8][None])
        learn_all(subject)

    assert (guard.seen, domain.present.answers, domain.begun) == ([16], "source", 8)


def test_a_request_that_is_looked_at_and_not_learnt_from_is_answered_by_whom_the_guard_names(monkeypatch):
    subject = learnt(Looks(), mode="inline")
    monkeypatch.setattr(subject.worker.parts.learner, "_purpose", lambda _: "look")

    answer = ask(subject, "door", rows(WINDOW, 1))

    assert (door(subject).serve, answer.adapted) == ("source", False)
    assert np.array_equal(answer.probabilities, frozen(rows(WINDOW, 1)))


def test_a_guard_that_cannot_look_has_the_frozen_model_answer(caplog):
    guard = Looks(says=["fail"])
    subject = learnt(guard)

    repeat(subject, WINDOW)

    assert (door(subject).serve, door(subject).steps) == ("source", 1)
    assert "no look today" in caplog.text
    guard.says.append("adapted")
    repeat(subject, WINDOW)
    assert door(subject).serve == "adapted"


def test_nothing_waits_where_nobody_looks_and_after_a_reset():
    subject = learnt(Unguarded())
    repeat(subject, WINDOW)
    assert len(door(subject).again) == 0

    subject = learnt(Looks())
    repeat(subject, WINDOW - 1)
    with_them = door(subject).bytes["window"]
    subject.commands.reset("door", WHO)
    assert with_them > door(subject).bytes["window"]
    assert len(door(subject).again) == 0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["again", "new", "learn", "shed", "off", "after"]), st.integers(1, 20))))
def test_there_are_never_more_than_a_window_of_them_and_they_never_stop_what_is_learnt(turns):
    subject = learnt(Looks(says=["adapted"]))

    for seed, (turn, count) in enumerate(turns, 1):
        if turn in ("again", "new"):
            ask(subject, "door", rows(count, seed) if turn == "new" else rows(WINDOW)[np.arange(count) % WINDOW])
        elif turn == "learn":
            learn_all(subject)
        elif turn == "shed":
            shed_all(subject)
        else:
            subject.commands.change("door", turn, None, WHO)
        assert len(door(subject).again) <= WINDOW

    learn_all(subject)
    assert subject.worker.due_s() is None
    assert len(door(subject).window) < WINDOW or door(subject).mode == "off"
