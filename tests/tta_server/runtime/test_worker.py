"""What becomes of a group of requests, and of a stream's windows."""

import functools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.networks import layer_norm_network
from tests.states import bits
from tests.tta_server.runtime.fakes import (
    SHAPE,
    WHO,
    BlindToWhite,
    Fails,
    ask,
    hard_tent,
    is_due,
    learn_all,
    queued,
    rows,
    shed_all,
    tiny,
    wired,
)
from tta_server import adapters
from tta_server.adapters.losses import log_probabilities
from tta_server.errors import BadRequest, NotFound, Overloaded, TTAError
from tta_server.models import TorchBackbone

WHITE = np.ones((1, *SHAPE), dtype=np.float32)


def frozen(images: np.ndarray) -> np.ndarray:
    """Return what the source model says."""
    x = torch.from_numpy(images).float() / 255
    return tiny().forward(x).logits.softmax(1).numpy()


def books_balance(summary: dict) -> bool:
    return summary["images"] == summary["images_learnt"] + summary["images_dropped"] + summary["images_in_window"]


# Answering
def test_a_new_stream_answers_as_the_source_model():
    answer = ask(wired(), "door", rows(3))

    assert np.array_equal(answer.probabilities, frozen(rows(3)))
    assert (answer.stream, answer.version, answer.adapted) == ("door", 0, False)


def test_probabilities_sum_to_one_and_entropies_are_theirs():
    answer = ask(wired(), "door", rows(5))

    p = answer.probabilities.astype(np.float64)
    assert np.allclose(p.sum(1), 1, atol=1e-6)  # float32 sums
    assert np.allclose(answer.entropy_nats, -(p * np.log(p)).sum(1), atol=1e-5)  # from float32 logits


def test_logarithms_of_probabilities_are_answered_as_these():
    class Says(Fails):
        def predict(self, backbone, state, x):
            certain = torch.eye(4)[torch.zeros(len(x), dtype=torch.long)]
            return backbone.forward(x)._replace(logits=log_probabilities(certain))

    answer = ask(wired(Says()), "door", rows(2))

    assert answer.probabilities.tolist() == [[1, 0, 0, 0]] * 2
    assert answer.entropy_nats.tolist() == [0, 0]


def test_each_request_of_a_group_gets_its_own_rows():
    subject, parts = wired(), [rows(2, 1), rows(3, 2), rows(1, 3)]
    jobs = [queued("door", part, 0.0) for part in parts]

    subject.worker.answer(jobs)

    together = ask(wired(), "door", np.concatenate(parts)).probabilities
    assert np.array_equal(np.concatenate([job.future.result(0).probabilities for job in jobs]), together)


def test_bytes_and_floats_may_share_a_forward():
    jobs = [queued("door", rows(2), 0.0), queued("door", (rows(2, 1) / 255).astype(np.float32), 0.0)]
    subject = wired()

    subject.worker.answer(jobs)

    assert all(job.future.result(0).probabilities.shape == (2, 4) for job in jobs)
    assert subject.commands.read("door")["images"] == 4


def test_requests_share_a_forward_only_if_they_share_a_state():
    subject = wired(
        engine={"stack_rows": 0}, named={"lab": {"mode": "inline"}, "a": {"mode": "off"}, "b": {"mode": "off"}}
    )
    jobs = [queued(name, rows(1), 0.0) for name in ("door", "yard", "lab", "a", "b") for _ in range(2)]
    group = {job.stream: [subject.worker.group(other) for other in jobs if other.stream == job.stream] for job in jobs}

    assert group["door"][0] == group["door"][1] != group["yard"][0]
    assert group["lab"][0] != group["lab"][1]
    assert group["a"][0] == group["a"][1] == group["b"][0] != group["door"][0]


def test_streams_share_a_forward_if_they_may_be_stacked():
    subject = wired(named={"lab": {"mode": "inline"}, "a": {"mode": "off"}})
    keys = {name: subject.worker.group(queued(name, rows(1), 0.0)) for name in ("door", "yard", "lab", "a")}

    assert keys["door"] == keys["yard"]
    assert len({keys["door"], keys["lab"], keys["a"]}) == 3


def test_streams_of_an_adapter_that_does_not_stack_keep_to_themselves():
    subject = wired(Fails())

    assert subject.worker.group(queued("door", rows(1), 0.0)) != subject.worker.group(queued("yard", rows(1), 0.0))


def test_requests_of_a_batch_coupled_adapter_never_share_a_forward():
    subject, first, second = (
        wired(adapters.create("tent", stats="batch")),
        *(queued("door", rows(2), 0.0) for _ in "ab"),
    )

    assert subject.worker.group(first) != subject.worker.group(second)


def test_frozen_streams_that_share_a_forward_each_name_their_own_version():
    subject = wired(mode="off")
    ask(subject, "reset", rows(1))
    ask(subject, "plain", rows(1))
    subject.commands.reset("reset", WHO)
    jobs = [queued("reset", rows(1), 0.0), queued("plain", rows(1), 0.0)]

    subject.worker.answer(jobs)

    assert [job.future.result(0).version for job in jobs] == [1, 0]


# Modes
def test_after_learns_once_the_answer_is_out():
    subject, adapter, backbone = wired(window=4), hard_tent(), tiny()

    before = ask(subject, "door", rows(4))
    learn_all(subject)
    after = ask(subject, "door", rows(4))

    x = torch.from_numpy(rows(4)).float() / 255
    step = adapter.adapt(backbone, adapter.init(backbone), x)
    assert np.array_equal(before.probabilities, frozen(rows(4)))
    assert np.array_equal(after.probabilities, adapter.predict(backbone, step.state, x).logits.softmax(1).numpy())
    assert (before.version, before.adapted, after.version, after.adapted) == (0, False, 1, True)


def test_after_learns_nothing_before_its_window_is_full():
    subject = wired(window=4)

    ask(subject, "door", rows(3))

    assert not is_due(subject)
    assert subject.commands.read("door")["images_in_window"] == 3


def test_inline_answers_with_the_step_on_the_request_and_names_the_state_it_started_from():
    subject, adapter, backbone = wired(mode="inline"), hard_tent(), tiny()
    x = torch.from_numpy(rows(6)).float() / 255

    answers = [ask(subject, "door", rows(6)) for _ in range(2)]

    first = adapter.adapt(backbone, adapter.init(backbone), x)
    second = adapter.adapt(backbone, first.state, x)
    for answer, step, version in zip(answers, (first, second), (0, 1), strict=True):
        assert np.array_equal(answer.probabilities, step.output.logits.softmax(1).detach().numpy())
        assert answer.version == version
    assert not is_due(subject)
    assert subject.commands.read("door")["state_version"] == 2


def test_inline_does_not_learn_from_a_single_image():
    subject = wired(mode="inline")

    answer = ask(subject, "door", rows(1))

    assert np.array_equal(answer.probabilities, frozen(rows(1)))
    assert subject.commands.read("door")["state_version"] == 0


def test_off_answers_as_the_source_model_for_ever():
    subject = wired(window=2, mode="off")

    for _ in range(5):
        answer = ask(subject, "door", rows(4))
        learn_all(subject)

    assert np.array_equal(answer.probabilities, frozen(rows(4)))
    assert (answer.version, answer.adapted, subject.commands.read("door")["images_in_window"]) == (0, False, 0)


def test_off_is_the_source_model_whatever_the_adapter_would_answer():
    subject = wired(adapters.create("tent", stats="batch"), mode="off")

    assert np.array_equal(ask(subject, "door", rows(1)).probabilities, frozen(rows(1)))
    assert np.array_equal(ask(subject, "door", rows(5)).probabilities, frozen(rows(5)))


def test_a_named_stream_has_its_own_mode():
    subject = wired(window=2, named={"door": {"mode": "off"}})

    for name in ("door", "yard"):
        ask(subject, name, rows(2))
    learn_all(subject)

    assert {stream["name"]: stream["state_version"] for stream in subject.commands.list()} == {"door": 0, "yard": 1}


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
        before = {stream["name"]: stream for stream in subject.commands.list()}
        if what == "ask":
            assert ask(subject, argument, rows(count)).version == versions[argument]
        elif what == "reset" and argument in before:
            versions[argument] += 1
            assert subject.commands.reset(argument, WHO)["state_version"] == versions[argument]
        elif what == "learn" and is_due(subject):
            do = subject.worker.shed if argument else subject.worker.learn
            do(time.monotonic())
            for stream in subject.commands.list():
                steps = stream["steps"] - before[stream["name"]]["steps"]
                versions[stream["name"]] += steps
                assert steps in ((0,) if argument else (0, 1))
        for stream in subject.commands.list():
            assert stream["state_version"] == versions[stream["name"]]
            assert books_balance(stream)
    learn_all(subject)
    assert all(stream["images_in_window"] < 4 for stream in subject.commands.list())


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

    summary = subject.commands.reset("door", WHO)

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


# Failure
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_step_that_fails_leaves_the_state_and_the_stream_answers_on():
    subject = wired(Fails(), window=4)
    ask(subject, "door", rows(4))
    before = bits(subject.stream("door").state)

    learn_all(subject)

    assert np.array_equal(ask(subject, "door", rows(4)).probabilities, frozen(rows(4)))
    summary = subject.commands.read("door")
    assert bits(subject.stream("door").state) == before
    assert (summary["state_version"], summary["images_dropped"], summary["images_learnt"]) == (0, 4, 0)


def test_an_inline_step_that_fails_fails_its_request_and_nothing_else():
    subject = wired(Fails(), mode="inline")

    with pytest.raises(TTAError, match="the model failed"):
        ask(subject, "door", rows(4))

    summary = subject.commands.read("door")
    assert (summary["state_version"], summary["images_dropped"]) == (0, 4)
    assert np.array_equal(ask(subject, "door", rows(1)).probabilities, frozen(rows(1)))


def test_an_answer_that_is_not_finite_fails_its_request_and_no_neighbour():
    subject = wired(backbone=tiny(BlindToWhite), window=4)
    jobs = [queued("door", images, 0.0) for images in (rows(2), WHITE, rows(3, 1))]

    subject.worker.answer(jobs)

    together = np.concatenate([rows(2), np.full((1, *SHAPE), 255, np.uint8), rows(3, 1)])
    expected = frozen(together)
    with pytest.raises(TTAError, match="not finite"):
        jobs[1].future.result(0)
    assert np.array_equal(jobs[0].future.result(0).probabilities, expected[:2])
    assert np.array_equal(jobs[2].future.result(0).probabilities, expected[3:])
    learn_all(subject)
    assert subject.commands.read("door")["images"] == 5
    assert np.isfinite(ask(subject, "door", rows(2)).probabilities).all()


def test_inline_learning_on_an_answer_that_is_not_finite_changes_nothing():
    subject = wired(backbone=tiny(BlindToWhite), mode="inline")
    ask(subject, "door", rows(4))
    before = bits(subject.stream("door").state)

    with pytest.raises(TTAError, match="not finite"):
        ask(subject, "door", np.concatenate([WHITE, WHITE]))

    assert bits(subject.stream("door").state) == before
    assert subject.commands.read("door")["state_version"] == 1


def test_one_image_is_refused_where_answers_need_a_batch():
    subject = wired(adapters.create("tent", stats="batch"))

    with pytest.raises(BadRequest, match="at least 2 images"):
        ask(subject, "door", rows(1))

    assert ask(subject, "door", rows(2)).version == 0
    assert subject.commands.read("door")["images"] == 2


def test_a_request_that_was_cancelled_is_neither_answered_nor_learnt_from():
    subject = wired(window=4)
    gone, here = queued("gone", rows(4), 0.0), queued("here", rows(4), 0.0)
    gone.future.cancel()

    subject.worker.answer([gone])
    subject.worker.answer([here])

    assert [stream["name"] for stream in subject.commands.list()] == ["here"]
    assert gone.future.cancelled()


def test_a_stream_too_many_is_refused_and_the_others_answer_on():
    subject = wired(max_streams=2)
    ask(subject, "a", rows(1))
    ask(subject, "b", rows(1))

    with pytest.raises(Overloaded, match="stream 'c' is new"):
        ask(subject, "c", rows(1))

    assert ask(subject, "a", rows(1)).version == 0
    assert [stream["name"] for stream in subject.commands.list()] == ["a", "b"]


def test_a_stream_too_many_fails_alone_in_a_group_of_frozen_ones():
    subject = wired(max_streams=1, mode="off")
    jobs = [queued("a", rows(1), 0.0), queued("b", rows(2), 0.0), queued("a", rows(1), 0.0)]

    subject.worker.answer(jobs)

    with pytest.raises(Overloaded):
        jobs[1].future.result(0)
    assert [job.future.result(0).probabilities.shape[0] for job in (jobs[0], jobs[2])] == [1, 1]


def test_damage_to_the_weights_is_seen():
    backbone = tiny()
    subject = wired(backbone=backbone)

    with torch.no_grad():
        backbone.weights()["fc.weight"][0, 0] += 1

    assert "damaged" in subject.worker.damage()


def test_an_adapter_that_does_not_fit_is_refused_at_once():
    network = TorchBackbone(layer_norm_network(), (3, 32, 32), name="plain")

    with pytest.raises(ValueError, match="adapter 'bn' needs batchnorm"):
        wired(adapters.create("bn"), backbone=network)


@pytest.mark.parametrize("name", ["source", "bn", "tent"])
def test_warming_up_leaves_no_trace(name):
    backbone = tiny()
    subject = wired(adapters.create(name), backbone=backbone)
    before = bits(subject.worker.parts.methods.default.initial)

    subject.worker.warm_up(8)

    assert subject.commands.list() == []
    assert bits(subject.worker.parts.methods.default.initial) == before
    assert not is_due(subject)


def test_a_stream_starts_again_after_so_many_steps():
    subject = wired(window=4, reset_every=3)
    images = rows(4)
    first = ask(subject, "door", images)

    versions = []
    for _ in range(6):
        learn_all(subject)
        versions.append((subject.commands.read("door")["steps"], subject.commands.read("door")["state_version"]))
        answer = ask(subject, "door", images)
    learn_all(subject)

    # Steps 3 and 6 are followed by a reset, which is a version of its own.
    assert versions == [(1, 1), (2, 2), (0, 4), (1, 5), (2, 6), (0, 8)]
    assert not answer.adapted
    assert np.array_equal(answer.probabilities, first.probabilities)
