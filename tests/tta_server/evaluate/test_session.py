"""A session answers and learns as the server does."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.states import bits
from tests.tta_server.runtime.fakes import Fails, ask, learn_all, rows, tiny, wired
from tta_server import adapters
from tta_server.adapters import lame  # noqa: F401  (registers it)
from tta_server.evaluate.session import Session, StoppedError
from tta_server.models import catalog, glyphs


def session(adapter, window: int = 8, inline: bool = True) -> Session:
    return Session(adapter, tiny(), None, window, inline)


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("name", ["tent", "bn", "source"])
def test_it_answers_and_learns_exactly_as_the_servers_worker(name, size):
    adapter = adapters.create(name, **({"lr": 0.1} if name == "tent" else {}))
    subject, server = session(adapter), wired(adapter, window=8)

    for start in range(0, 48, size):
        images = rows(48)[start : start + size]
        predicted, answer = subject.answer(images), ask(server, "door", images)
        learn_all(server)
        assert np.array_equal(predicted, answer.probabilities.argmax(1))

    assert bits(subject.stream.state) == bits(server.stream("door").state)
    assert len(subject.learn_s) == 48 // 8
    assert len(subject.answer_s) == 48 // size


def test_a_batch_coupled_adapter_answers_with_the_forward_that_it_learns_from():
    adapter = adapters.create("tent", stats="batch", lr=0.1)
    subject, backbone = session(adapter), tiny()
    state = adapter.init(backbone)

    for seed in range(3):
        images = rows(6, seed)
        step = adapter.adapt(backbone, state, torch.from_numpy(images).float() / 255)
        assert np.array_equal(subject.answer(images), step.output.logits.argmax(1).numpy())
        state = step.state

    assert bits(subject.stream.state) == bits(state)
    assert not subject.learn_s


def test_probabilities_are_read_as_well_as_logits():
    adapter = adapters.create("lame")

    predicted = session(adapter).answer(rows(6))

    x = torch.from_numpy(rows(6)).float() / 255
    assert np.array_equal(predicted, adapter.predict(tiny(), {}, x).logits.argmax(1).numpy())


def test_batch_statistics_of_one_image_are_refused_with_the_adapters_reason():
    subject = session(adapters.create("tent", stats="batch"), inline=False)

    with pytest.raises(StoppedError, match="batch statistics need at least 2 images, got 1") as stopped:
        subject.answer(rows(1))
    assert stopped.value.status == "refused"


def test_an_adapter_that_does_not_fit_is_refused_before_anything():
    @dataclass(frozen=True)
    class Needs(Fails):
        requires: ClassVar[frozenset[str]] = frozenset({"reference.fisher"})

    with pytest.raises(StoppedError, match=r"needs reference\.fisher") as stopped:
        session(Needs())
    assert stopped.value.status == "refused"


def test_an_adapter_that_breaks_has_failed(caplog):
    subject = session(Fails(), window=4)

    with pytest.raises(StoppedError, match="RuntimeError: no step today") as stopped:
        subject.answer(rows(4))
    assert stopped.value.status == "failed"
    assert "no step today" in caplog.text


def test_a_request_whose_answer_is_not_finite_is_refused_as_the_server_does_and_teaches_nothing():
    @dataclass(frozen=True)
    class Says(Fails):
        def predict(self, backbone, state, x):
            output = backbone.forward(x)
            return output._replace(logits=torch.tensor([[1.0, torch.nan, 0, 0], [0, 1, 0, 0]]))

    subject = session(Says())

    assert subject.answer(rows(2)).tolist() == [-1, -1]
    assert subject.stream.window.recent == []
    assert len(subject.stream.window) == 0


def test_an_adapter_that_cannot_answer_has_failed():
    @dataclass(frozen=True)
    class Mute(Fails):
        def predict(self, backbone, state, x):
            raise RuntimeError("nothing to say")

    with pytest.raises(StoppedError, match="the model failed") as stopped:
        session(Mute()).answer(rows(2))
    assert stopped.value.status == "failed"


def test_reset_forgets_what_was_learnt_and_what_waits():
    adapter = adapters.create("tent", lr=0.1)
    subject, fresh = session(adapter), session(adapter)
    subject.answer(rows(8))
    subject.answer(rows(5, 1))

    subject.reset()

    for seed in (2, 3):
        assert np.array_equal(subject.answer(rows(8, seed)), fresh.answer(rows(8, seed)))
    assert bits(subject.stream.state) == bits(fresh.stream.state)


def test_the_selected_are_counted_where_the_adapter_tells():
    @dataclass(frozen=True)
    class Tells(Fails):
        def adapt(self, backbone, state, x):
            scalars = {"accepted": torch.tensor(True), "selected": torch.tensor(3)}
            return adapters.Step(state, backbone.forward(x), scalars)

    subject = session(Tells(), window=4)
    subject.answer(rows(4))
    subject.answer(rows(4))

    assert (subject.selected, subject.offered, subject.accepted) == (6, 8, [True, True])
    assert subject.state_bytes == 8
    assert session(adapters.create("source")).selected is None


def test_kinds_of_input_are_told_apart_and_known_again_until_it_is_reset():
    model, (images, _) = catalog.load("glyphs"), glyphs.images("test")
    tent = adapters.create("tent")
    subject = Session(tent, model.backbone, model.reference, 32, inline=False, domains=4)
    noise = np.random.default_rng(0).normal(0, 40, (64, *images.shape[1:]))
    noisy = (images[64:128] + noise).clip(0, 255).astype(np.uint8)
    seen = []

    for part in (images[:32], noisy[:32], images[32:64], noisy[32:]):
        subject.answer(part)
        seen.append(set(subject.places))

    assert seen == [{"source"}, {"evaluate@1"}, {"source"}, {"evaluate@1"}]
    assert [domain.images for domain in subject.domains] == [64]
    assert len(subject.accepted) == 2  # windows of the domain alone
    assert subject.stream.steps == 0
    subject.reset()
    assert subject.domains == []
    subject.answer(noisy[:32])
    assert [domain.images for domain in subject.domains] == [32]
