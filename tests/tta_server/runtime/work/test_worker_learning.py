"""What becomes of a stream's windows: books, versions, resets, neighbours."""

import functools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.states import bits
from tests.tta_server.runtime.fakes import WHO, ask, is_due, learn_all, queued, rows, shed_all, tiny, wired
from tta_server import adapters
from tta_server.errors import NotFound


def frozen(images: np.ndarray) -> np.ndarray:
    """Return what the source model says."""
    x = torch.from_numpy(images).float() / 255
    return tiny().forward(x).logits.softmax(1).numpy()


def books_balance(summary: dict) -> bool:
    return summary["images"] == summary["images_learnt"] + summary["images_dropped"] + summary["images_in_window"]


# Books and versions
operations = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("ab"), st.integers(1, 9)),
        st.tuples(st.just("learn"), st.booleans(), st.none()),
        st.tuples(st.just("reset"), st.sampled_from("ab"), st.none()),
    ),
    max_size=30,
)


@settings(max_examples=20, deadline=None)
@given(operations)
def test_images_are_conserved_and_the_version_grows_by_one_per_commit(sequence):
    subject = wired(window=4)
    versions = {"a": 0, "b": 0}
    for what, argument, count in sequence:
        before = {stream["name"]: stream for stream in subject.commands.list().streams}
        if what == "ask":
            assert ask(subject, argument, rows(count)).version == versions[argument]
        elif what == "reset" and argument in before:
            versions[argument] += 1
            assert subject.commands.reset(argument, WHO)[0]["state_version"] == versions[argument]
        elif what == "learn" and is_due(subject):
            do = subject.worker.shed if argument else subject.worker.learn
            do(time.monotonic())
            for stream in subject.commands.list().streams:
                steps = stream["steps"] - before[stream["name"]]["steps"]
                versions[stream["name"]] += steps
                assert steps in ((0,) if argument else (0, 1))
        for stream in subject.commands.list().streams:
            assert stream["state_version"] == versions[stream["name"]]
            assert books_balance(stream)
    learn_all(subject)
    assert all(stream["images_in_window"] < 4 for stream in subject.commands.list().streams)


def test_windows_beyond_the_fourth_are_dropped_oldest_first():
    subject = wired(window=4)

    for _ in range(10):
        ask(subject, "door", rows(4))

    summary = subject.commands.read("door")
    assert (summary["images_in_window"], summary["images_dropped"]) == (16, 24)


@pytest.mark.parametrize(
    ("stack_rows", "expected"),
    [
        (0, [[1, 0], [1, 1], [2, 1], [2, 2], [3, 2], [3, 3]]),
        (3, [[1, 0], [1, 1], [2, 1], [2, 2], [3, 2], [3, 3]]),
        (4, [[1, 1], [2, 2], [3, 3]]),
    ],
)
def test_streams_learn_in_order_of_arrival_and_together_where_a_stack_has_room(stack_rows, expected):
    subject = wired(window=2, engine={"stack_rows": stack_rows})
    for name in ("a", "b") * 3:
        ask(subject, name, rows(2))

    seen = []
    while is_due(subject):
        subject.worker.learn(time.monotonic())
        seen.append(list(subject.steps().values()))

    assert seen == expected


def test_under_overload_windows_are_dropped_and_answers_are_not():
    subject = wired(window=4)

    answers = []
    for _ in range(3):
        answers.append(ask(subject, "door", rows(4)))
        shed_all(subject)

    summary = subject.commands.read("door")
    assert all(np.array_equal(answer.probabilities, frozen(rows(4))) for answer in answers)
    assert (summary["images"], summary["images_dropped"], summary["steps"]) == (12, 12, 0)


# Reset
def test_a_reset_stream_answers_as_the_source_model_bit_for_bit():
    subject = wired(window=4)
    for seed in range(3):
        ask(subject, "door", rows(6, seed))
        learn_all(subject)
    assert not np.array_equal(ask(subject, "door", rows(6)).probabilities, frozen(rows(6)))

    summary, _ = subject.commands.reset("door", WHO)

    answer = ask(subject, "door", rows(6))
    assert np.array_equal(answer.probabilities, frozen(rows(6)))
    assert (answer.version, answer.adapted) == (summary["state_version"], False)
    assert (summary["steps"], summary["images_in_window"]) == (0, 0)


def test_a_window_that_was_reset_while_due_is_not_learnt():
    subject = wired(window=4)
    ask(subject, "door", rows(4))

    subject.commands.reset("door", WHO)
    learn_all(subject)

    summary = subject.commands.read("door")
    assert (summary["steps"], summary["images_dropped"], summary["state_version"]) == (0, 4, 1)


def test_a_reset_stream_learns_again_as_a_new_one_does():
    subject, fresh = wired(window=4), wired(window=4)
    ask(subject, "door", rows(4, 9))
    learn_all(subject)
    subject.commands.reset("door", WHO)

    for other in (subject, fresh):
        ask(other, "door", rows(4))
        learn_all(other)

    same = [ask(other, "door", rows(4)).probabilities for other in (subject, fresh)]
    assert np.array_equal(*same)


def test_what_does_not_exist_is_not_found():
    commands = wired().commands

    for call in (lambda: commands.read("door"), lambda: commands.reset("door", WHO)):
        with pytest.raises(NotFound, match="unknown stream 'door'"):
            call()


# Isolation
@functools.cache
def alone(stats: str) -> tuple[list, dict]:
    return serve_beside([], stats)


def serve_beside(company: list[tuple[str, int]], stats: str) -> tuple[list, dict]:
    images = {"noise": rows(12, 7), "black": np.zeros_like(rows(12)), "white": np.full_like(rows(12), 255)}
    subject = wired(adapters.create("tent", lr=0.1, stats=stats), window=4)
    answers = []
    for seed in range(3):
        for kind, count in company:
            subject.worker.answer([queued("bad", images[kind][:count], 0.0)])
            learn_all(subject)
        answers.append(ask(subject, "good", rows(4, seed)))
        learn_all(subject)
    return answers, bits(subject.stream("good").state)


@settings(max_examples=12, deadline=None)
@given(
    neighbours=st.lists(st.tuples(st.sampled_from(["noise", "black", "white"]), st.integers(1, 12)), max_size=3),
    stats=st.sampled_from(["ema", "batch"]),
)
def test_a_stream_learns_and_answers_as_if_it_were_alone(neighbours, stats):
    answers, state = serve_beside(neighbours, stats)

    assert state == alone(stats)[1]
    for one, other in zip(answers, alone(stats)[0], strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)
        assert one.version == other.version


def test_learning_changes_nothing_in_the_backbone():
    backbone = tiny()
    subject = wired(backbone=backbone, window=2)

    for seed in range(5):
        ask(subject, "door", rows(4, seed))
        learn_all(subject)

    assert backbone.digest() == backbone.spec.digest
    assert subject.worker.damage() == ""
