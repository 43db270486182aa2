"""What becomes of a step, as the guard says and as things go wrong."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import tta_server.runtime.work.trial as module
from tests.states import bits
from tests.tta_server.runtime.fakes import (
    SHAPE,
    WHO,
    Fails,
    Picky,
    Scripted,
    Wired,
    ask,
    learn_all,
    rows,
    tiny,
    value,
    wired,
)
from tta_server import adapters
from tta_server.errors import TTAError

BRIGHT = np.full((4, *SHAPE), 250, np.uint8) + np.arange(4 * 3 * 64, dtype=np.uint8).reshape(4, *SHAPE) % 5


def guarded(*words: str, **keys: object) -> Wired:
    return wired(judge=Scripted(words), **keys)


def windows(subject: Wired, count: int, stream: str = "door") -> None:
    """Have a stream learn from so many windows."""
    for seed in range(count):
        ask(subject, stream, rows(4, seed))
        learn_all(subject)


def frozen(images: np.ndarray) -> np.ndarray:
    return tiny().forward(torch.from_numpy(images).float() / 255).logits.softmax(1).numpy()


# Verdicts
def test_a_commit_replaces_the_state_and_is_remembered_with_what_the_guard_said():
    subject = guarded("commit", "pass")
    windows(subject, 2)

    door = subject.stream("door")
    assert [(kept.version, kept.steps, kept.passed) for kept in door.history] == [(1, 1, False), (2, 2, True)]
    assert (door.version, door.steps, door.learnt, int(door.memory["turn"])) == (2, 2, 8, 2)
    assert value(subject.metrics, "tta_verdicts_total", verdict="commit") == 2
    assert value(subject.metrics, "tta_prediction_diversity_ratio", stream="door") == 0.5


def test_a_rejected_step_leaves_the_state_and_counts_its_images():
    subject = guarded("commit", "reject")
    windows(subject, 1)
    door, before = subject.stream("door"), bits(subject.stream("door").state)

    windows(subject, 1)

    assert bits(door.state) == before
    assert (door.version, door.learnt, door.dropped) == (1, 4, {"rejected": 4})
    assert value(subject.metrics, "tta_batches_total", action="rejected") == 1


def test_a_skipped_window_changes_nothing_but_what_the_guard_remembers():
    subject = guarded("commit", "skip")
    windows(subject, 1)
    door, before = subject.stream("door"), bits(subject.stream("door").state)

    windows(subject, 1)

    assert bits(door.state) == before
    assert (door.version, door.steps, door.dropped, int(door.memory["turn"])) == (1, 1, {"skipped": 4}, 2)
    assert value(subject.metrics, "tta_batches_total", action="skipped") == 1


def test_a_rollback_goes_to_the_newest_version_that_passed():
    subject = guarded("pass", "commit", "commit", "rollback")
    windows(subject, 1)
    good = bits(subject.stream("door").state)

    windows(subject, 3)

    door = subject.stream("door")
    assert bits(door.state) == good
    assert (door.version, door.steps, door.learnt, door.dropped, door.restores) == (4, 1, 12, {"rejected": 4}, 1)
    assert value(subject.metrics, "tta_restores_total", cause="canary") == 1
    assert value(subject.metrics, "tta_batches_total", action="restored") == 1


def test_a_rollback_without_a_version_that_passed_goes_to_the_source():
    subject = guarded("commit", "rollback")
    windows(subject, 2)

    assert np.array_equal(ask(subject, "door", rows(4)).probabilities, frozen(rows(4)))
    assert subject.commands.read("door")["state_version"] == 2


def test_a_reset_by_the_guard_goes_to_the_source_and_keeps_what_waits():
    subject = guarded("pass", "reset")
    windows(subject, 1)
    ask(subject, "door", rows(6, 1))

    learn_all(subject)

    door = subject.stream("door")
    assert (door.steps, door.version, len(door.window)) == (0, 2, 2)
    assert np.array_equal(ask(subject, "door", rows(1)).probabilities, frozen(rows(1)))


def test_a_stream_that_is_taken_back_again_and_again_is_switched_off():
    subject = guarded("commit", "rollback")
    windows(subject, 5)
    assert subject.commands.read("door")["mode"] == "after"

    windows(subject, 1)

    told = subject.commands.read("door")
    assert told["mode"] == "off"
    assert told["frozen"] == "taken back 3 times in a row, last because: as told"
    assert value(subject.metrics, "tta_stream_frozen", stream="door") == 1
    assert np.array_equal(ask(subject, "door", rows(2)).probabilities, frozen(rows(2)))


def test_a_complete_check_that_passes_begins_the_count_of_restores_anew():
    subject = guarded("rollback", "rollback", "pass")
    windows(subject, 9)

    assert subject.commands.read("door")["mode"] == "after"
    assert subject.stream("door").restores == 0


def test_a_reset_by_an_operator_lifts_the_freeze():
    subject = guarded("rollback")
    windows(subject, 3)
    assert subject.stream("door").frozen

    subject.commands.reset("door", WHO)

    told = subject.commands.read("door")
    assert (told["mode"], told["frozen"], told["restores_in_a_row"]) == ("after", "", 0)


def test_the_source_answers_while_the_guard_says_so():
    subject = guarded("commit", "commit/source", "commit")
    windows(subject, 2)

    there = ask(subject, "door", rows(4, 9))
    learn_all(subject)
    back = ask(subject, "door", rows(4, 9))

    assert np.array_equal(there.probabilities, frozen(rows(4, 9)))
    assert (there.version, there.adapted, back.version, back.adapted) == (2, False, 3, True)
    assert not np.array_equal(back.probabilities, frozen(rows(4, 9)))


def test_shadow_learns_and_answers_as_the_source():
    subject = wired(mode="shadow")
    windows(subject, 3)

    answer = ask(subject, "door", rows(4))

    assert np.array_equal(answer.probabilities, frozen(rows(4)))
    assert (answer.version, answer.adapted, subject.stream("door").steps) == (3, False, 3)


def test_a_periodic_reset_does_not_count_against_the_stream():
    subject = wired(reset_every=1)
    windows(subject, 4)

    door = subject.stream("door")
    assert (door.version, door.steps, door.restores, door.mode) == (8, 0, 0, "after")
    assert value(subject.metrics, "tta_restores_total", cause="periodic") == 4


# Failure
def test_a_guard_that_fails_leaves_the_stream_as_it_was():
    subject = guarded("commit", "fail")
    windows(subject, 1)
    before = bits(subject.stream("door").state)

    windows(subject, 1)

    door = subject.stream("door")
    assert bits(door.state) == before
    assert (door.version, int(door.memory["turn"]), door.dropped) == (1, 1, {"failed": 4})
    assert value(subject.metrics, "tta_batches_total", action="failed") == 1


@pytest.mark.parametrize("word", ["fail", "commit"])
def test_inline_counts_the_images_of_a_step_that_fails_wherever_it_fails(word):
    subject = guarded(word, adapter=Fails() if word == "commit" else None, mode="inline")

    with pytest.raises(TTAError, match="the model failed"):
        ask(subject, "door", rows(4))

    assert subject.stream("door").dropped == {"failed": 4}


# Stacks
def pair(subject: Wired, first: np.ndarray, second: np.ndarray) -> None:
    """Have two streams with different states learn from windows that are due together."""
    ask(subject, "a", rows(4, 50))
    learn_all(subject)
    ask(subject, "a", first)
    ask(subject, "b", second)
    learn_all(subject)


def test_a_stacked_step_equals_steps_one_by_one(monkeypatch):
    calls = []
    original = module.adapt_stacked
    monkeypatch.setattr(module, "adapt_stacked", lambda *given: calls.append(1) or original(*given))
    stacked, alone = wired(engine={"stack_rows": 8}), wired(engine={"stack_rows": 0})

    for subject in (stacked, alone):
        pair(subject, rows(4, 1), rows(4, 2))

    assert len(calls) == 1
    for name in ("a", "b"):
        for key, tensor in alone.stream(name).state.items():
            # Float32 sums in another order.
            assert_close(stacked.stream(name).state[key], tensor, rtol=1e-5, atol=1e-5)


def test_a_stream_that_fails_in_a_stack_costs_the_others_nothing():
    subject = wired(Picky())
    pair(subject, rows(4, 1), BRIGHT)

    a, b = subject.stream("a"), subject.stream("b")
    assert (a.steps, dict(a.dropped)) == (2, {})
    assert (b.steps, dict(b.dropped)) == (0, {"failed": 4})


def test_a_verdict_that_fails_in_a_stack_costs_the_others_nothing():
    subject = guarded("commit", "fail")  # the second window of 'a' meets the first of 'b'
    pair(subject, rows(4, 1), rows(4, 2))

    assert (subject.stream("a").steps, subject.stream("b").steps) == (1, 1)
    assert subject.stream("a").dropped == {"failed": 4}


def test_a_stream_that_is_skipped_in_a_stack_leaves_the_others_to_learn():
    subject = guarded("commit", "skip")
    pair(subject, rows(4, 1), rows(4, 2))

    assert (subject.stream("a").steps, subject.stream("b").steps) == (1, 1)
    assert subject.stream("a").dropped == {"skipped": 4}


def test_streams_with_settings_of_their_own_do_not_join_a_stack(monkeypatch):
    monkeypatch.setattr(module, "adapt_stacked", None)
    subject = wired()
    subject.commands.create("a", None, subject.method("tent", lr=0.01), WHO)

    for name in ("a", "b"):
        ask(subject, name, rows(4))
    learn_all(subject)

    assert subject.steps() == {"a": 1, "b": 1}


# Inline
def test_inline_reads_the_source_as_logits_and_does_not_call_it_adapted():
    """LAME's own answers are probabilities; the source's are not."""
    subject = guarded("skip/source", adapter=adapters.create("lame"), mode="inline")
    images = rows(4)

    answer = ask(subject, "door", images)

    assert np.array_equal(answer.probabilities, frozen(images))
    assert not answer.adapted


def test_inline_answers_as_the_source_where_the_guard_says_so():
    subject = guarded("commit", "skip/source", "commit/source", "skip", mode="inline")
    images = [rows(4, seed) for seed in range(4)]

    first, skipped, judged = (ask(subject, "door", batch).probabilities for batch in images[:3])
    alone, said = ask(subject, "door", images[0][:1]), subject.commands.read("door")
    stays = ask(subject, "door", images[3]).probabilities

    assert not np.array_equal(first, frozen(images[0]))  # batch statistics
    assert np.array_equal(skipped, frozen(images[1]))
    assert np.array_equal(judged, frozen(images[2]))
    assert np.array_equal(alone.probabilities, frozen(images[0][:1]))  # it is only answered: by whom the guard chose
    assert (alone.adapted, said["answers"], said["source_because"]) == (False, "source", "guard")
    assert not np.array_equal(stays, frozen(images[3]))  # the guard gave it back
