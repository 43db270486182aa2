import sys

import pytest
import torch
from torch.func import vmap

from tests.states import bits
from tta_server.adapters.affine import descend, init_affine
from tta_server.adapters.losses import entropy
from tta_server.adapters.optim import Optimizer

SGD = Optimizer("sgd", 0.01, 0.9)


@pytest.fixture
def state(backbone):
    return init_affine(backbone, SGD, "ema")


def loss_on(backbone, x):
    def loss(theta):
        output = backbone.forward(x, theta, "batch")
        return entropy(output.logits).mean(), (output, {"rows": (output.logits,)})

    return loss


def test_what_comes_with_the_loss_keeps_its_form_and_carries_no_gradient(backbone, batch, state):
    _, value, (output, aux) = descend(state, loss_on(backbone, batch), SGD)

    assert torch.equal(aux["rows"][0], output.logits)
    assert not any(tensor.requires_grad for tensor in (value, *output[:2], *output.moments.values(), aux["rows"][0]))


def test_a_stack_of_one_takes_the_step_of_a_stream_alone(backbone, batch, state):
    alone, value, _ = descend(state, loss_on(backbone, batch), SGD)

    def step(state, x):
        return descend(state, loss_on(backbone, x), SGD)[:2]

    together, values = vmap(step)({name: tensor[None] for name, tensor in state.items()}, batch[None])

    assert values[0] == pytest.approx(value.item(), rel=1e-6)
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name][0], tensor, atol=1e-5, rtol=1e-5)


def test_a_gradient_is_taken_where_none_is_recorded(backbone, batch, state):
    expected, _, _ = descend(state, loss_on(backbone, batch), SGD)

    with torch.no_grad():
        moved, _, _ = descend(state, loss_on(backbone, batch), SGD)

    assert bits(moved) == bits(expected)


def test_streams_learn_together_without_torchs_compiler(backbone, batch, state, monkeypatch):
    monkeypatch.delattr(torch, "_dynamo", raising=False)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # it takes 160 MB, and seconds to load

    moved = vmap(lambda state, x: descend(state, loss_on(backbone, x), SGD)[0])(
        {name: tensor[None] for name, tensor in state.items()}, batch[None]
    )

    assert all(tensor.isfinite().all() for tensor in moved.values())


def test_streams_that_share_their_parameters_are_refused(backbone, batch, state):
    with pytest.raises(RuntimeError, match="must have parameters of their own"):
        vmap(lambda x: descend(state, loss_on(backbone, x), SGD)[0])(batch[None])
