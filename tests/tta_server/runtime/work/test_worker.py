"""What becomes of a group of requests, mode by mode."""

import numpy as np
import torch

from tests.tta_server.runtime.fakes import (
    WHO,
    Fails,
    ask,
    hard_tent,
    is_due,
    learn_all,
    queued,
    rows,
    tiny,
    wired,
)
from tta_server import adapters
from tta_server.adapters.losses import log_probabilities


def frozen(images: np.ndarray) -> np.ndarray:
    """Return what the source model says."""
    x = torch.from_numpy(images).float() / 255
    return tiny().forward(x).logits.softmax(1).numpy()


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
    key = subject.worker.grouping()
    group = {job.stream: [key(other) for other in jobs if other.stream == job.stream] for job in jobs}

    assert group["door"][0] == group["door"][1] != group["yard"][0]
    assert group["lab"][0] != group["lab"][1]
    assert group["a"][0] == group["a"][1] == group["b"][0] != group["door"][0]


def test_streams_share_a_forward_if_they_may_be_stacked():
    subject = wired(named={"lab": {"mode": "inline"}, "a": {"mode": "off"}})
    keys = {name: subject.worker.grouping()(queued(name, rows(1), 0.0)) for name in ("door", "yard", "lab", "a")}

    assert keys["door"] == keys["yard"]
    assert len({keys["door"], keys["lab"], keys["a"]}) == 3


def test_streams_of_an_adapter_that_does_not_stack_keep_to_themselves():
    subject = wired(Fails())

    key = subject.worker.grouping()

    assert key(queued("door", rows(1), 0.0)) != key(queued("yard", rows(1), 0.0))


def test_requests_of_a_batch_coupled_adapter_never_share_a_forward():
    subject, first, second = (
        wired(adapters.create("tent", stats="batch")),
        *(queued("door", rows(2), 0.0) for _ in "ab"),
    )

    assert subject.worker.grouping()(first) != subject.worker.grouping()(second)


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

    assert {stream["name"]: stream["state_version"] for stream in subject.commands.list().streams} == {
        "door": 0,
        "yard": 1,
    }
