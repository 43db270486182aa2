import torch

from tta_server.adapters.source import Source


def test_the_answer_is_that_of_the_frozen_model_whatever_came_before(backbone, batches):
    adapter = Source()
    state = adapter.init(backbone)
    for batch in batches[:3]:
        state = adapter.adapt(backbone, state, batch).state

    output = adapter.predict(backbone, state, batches[3])

    assert torch.equal(output.logits, backbone.forward(batches[3]).logits)
    assert torch.equal(output.features, backbone.forward(batches[3]).features)


def test_a_step_answers_and_says_that_nothing_was_learnt(backbone, batch):
    adapter = Source()

    step = adapter.adapt(backbone, adapter.init(backbone), batch)

    assert torch.equal(step.output.logits, backbone.forward(batch).logits)
    assert step.scalars.keys() == {"accepted"}
    assert not step.scalars["accepted"]


def test_there_is_no_state():
    assert Source().init(None) == {}


def test_nothing_is_required_of_a_backbone():
    assert Source().requires == frozenset()
    assert not Source().batch_coupled
