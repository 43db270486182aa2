"""What a request, a step or a network that fails costs, and what it does not."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from tests.networks import layer_norm_network
from tests.states import bits
from tests.tta_server.runtime.fakes import (
    SHAPE,
    BlindToWhite,
    Fails,
    Scripted,
    ask,
    bright,
    close,
    dark,
    is_due,
    learn_all,
    queued,
    rows,
    tiny,
    wired,
)
from tta_server import adapters
from tta_server.adapters import State, Step
from tta_server.errors import BadRequest, Overloaded, TTAError
from tta_server.models import Backbone, Output, TorchBackbone
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_export import graphs
from tta_server.runtime.job import HOME
from tta_server.runtime.work.damage import Damage
from tta_server.streams.ledger import Label

WHITE = np.ones((1, *SHAPE), dtype=np.float32)


def frozen(images: np.ndarray) -> np.ndarray:
    """Return what the source model says."""
    x = torch.from_numpy(images).float() / 255
    return tiny().forward(x).logits.softmax(1).numpy()


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


@dataclass(frozen=True)
class Turns(Fails):
    """Gives each class the name of another once it has taken a step."""

    name: ClassVar[str] = "turns"

    def predict(self, backbone: Backbone, state: State, x: torch.Tensor) -> Output:
        output = backbone.forward(x)
        return Output(output.logits.roll(int(state["theta"][0]), 1), output.features)

    def adapt(self, backbone: Backbone, state: State, x: torch.Tensor) -> Step:
        after = {"theta": state["theta"] + 1}
        return Step(after, self.predict(backbone, state, x), {"accepted": torch.tensor(True)})


def test_an_answer_whose_own_step_switched_the_stream_off_is_not_taken_for_the_frozen_models():
    subject = wired(Turns(), judge=Scripted(("reset", "reset", "commit", "reset")), mode="inline")
    ledger, source = subject.worker.parts.ledger, subject.worker.parts.answerer.source

    for turn in range(4):
        answer = ask(subject, "lab", rows(8, turn), request_id="last")
    predicted = source([rows(8, 3)])
    labels = [Label("last", place, int(label), "lab") for place, label in enumerate(predicted)]
    ledger.label(labels, lambda _: pytest.fail("the guard has asked the frozen model"))

    assert subject.stream("lab").frozen
    assert answer.adapted
    assert ledger.accuracy("lab")["source"]["accuracy"] == 1
    assert ledger.accuracy("lab")["adapted"]["accuracy"] == 0


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

    assert [stream["name"] for stream in subject.commands.list().streams] == ["here"]
    assert gone.future.cancelled()


def test_a_stream_too_many_is_refused_and_the_others_answer_on():
    subject = wired(max_streams=2)
    ask(subject, "a", rows(1))
    ask(subject, "b", rows(1))

    with pytest.raises(Overloaded, match="stream 'c' is new"):
        ask(subject, "c", rows(1))

    assert ask(subject, "a", rows(1)).version == 0
    assert [stream["name"] for stream in subject.commands.list().streams] == ["a", "b"]


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


def test_weights_that_the_digest_covers_are_not_asked_for_answers_as_well(monkeypatch):
    backbone = tiny()
    subject = wired(backbone=backbone)
    subject.worker.warm_up(8)
    monkeypatch.setattr(backbone, "forward", pytest.fail)

    assert subject.worker.damage() == ""


@pytest.mark.parametrize("graph", ["_source", "_streams"])
def test_damage_to_a_graph_is_seen_though_torchs_weights_are_whole(graph, monkeypatch):
    onnx = OnnxBackbone(tiny(), graphs(tiny()))
    subject = wired(backbone=tiny(), answers=onnx)
    subject.worker.warm_up(8)
    assert subject.worker.damage() == ""

    session = getattr(onnx, graph)
    run = session.run
    monkeypatch.setattr(session, "run", lambda *given, **more: [tensor * 1.2 for tensor in run(*given, **more)])

    assert "answers otherwise than at the start" in subject.worker.damage()


def test_damage_to_the_graph_of_streams_is_seen_where_layers_have_statistics_alone(monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(144, 4))
    backbone = TorchBackbone(network, (3, 8, 8))
    onnx = OnnxBackbone(backbone, graphs(backbone))
    watch = Damage(backbone, onnx)
    watch.remember()
    assert watch.found() == ""

    run = onnx._streams.run
    monkeypatch.setattr(onnx._streams, "run", lambda *given: [tensor + 5 for tensor in run(*given)])

    assert "answers otherwise than at the start" in watch.found()


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

    assert subject.commands.list().streams == []
    assert bits(subject.worker.parts.methods.default.initial) == before
    assert not is_due(subject)


def test_a_request_of_many_kinds_where_there_is_room_for_few_fails_once_and_answers_in_one_piece_of_home(monkeypatch):
    subject = wired(domains=2, window=16)
    for look in (dark, bright):
        ask(subject, "door", look(16))
    red = rows(16, 4) // 8
    red[:, 0] = 255 - red[:, 0]
    mixed = np.concatenate([rows(16, 1), dark(16, 2), bright(16, 3), red])
    answered = ask(subject, "door", mixed)
    monkeypatch.setattr(subject.worker.parts.answerer, "answer", failing)

    with pytest.raises(TTAError, match="the model failed"):
        ask(subject, "door", mixed)

    monkeypatch.undo()
    assert list(dict.fromkeys(answered.domains)) == [HOME, "door@1", "door@2"]
    assert set(answered.domains[48:]) == {HOME}
    assert set(ask(subject, "door", rows(4)).domains) == {HOME}  # and all goes on


def failing(*_: object) -> None:
    raise RuntimeError("out of memory")


def test_a_number_of_steps_that_is_passed_already_is_followed_by_a_reset(tmp_path):
    first = wired(window=4, storage=str(tmp_path))
    for seed in range(5):
        ask(first, "door", rows(4, seed))
        learn_all(first)
    first.commands.save()
    close()
    subject = wired(window=4, storage=str(tmp_path), reset_every=3)

    ask(subject, "door", rows(4, 9))
    learn_all(subject)

    assert subject.commands.read("door")["steps"] == 0


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
