import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from tests.networks import golden, layer_norm_network, reference_network
from tta_server.adapters.losses import entropy
from tta_server.adapters.tent import Tent
from tta_server.models import TorchBackbone


class TorchTent:
    """TENT written with a module in training mode and an optimiser of torch's, as its authors do."""

    def __init__(self, module: nn.Module, optimizer: type, **settings: object) -> None:
        self.module = copy.deepcopy(module).train().requires_grad_(False)
        layers = {
            n: m for n, m in self.module.named_modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm))
        }
        self.parameters = {f"{n}.{kind}": p for n, m in layers.items() for kind, p in m.named_parameters()}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.optimizer = optimizer(list(self.parameters.values()), **settings)

    def step(self, x: Tensor) -> Tensor:
        logits = self.module(x)
        log_p = logits.log_softmax(1)
        loss = -(log_p.exp() * log_p).sum(1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return logits.detach()


def test_sgd_reproduces_the_reference_outputs(backbone, batches):
    adapter, reference = Tent(lr=2.5e-4, momentum=0.9, stats="batch"), golden("tent_sgd")
    state, logits = adapter.init(backbone), []

    for batch in batches:
        step = adapter.adapt(backbone, state, batch)
        state, logits = step.state, [*logits, step.output.logits]

    # the same float32 arithmetic in another order
    assert_close(torch.stack(logits), reference["logits"], atol=1e-5, rtol=0)
    final = {f"theta/{name[6:]}": tensor for name, tensor in reference.items() if name.startswith("final/")}
    assert {name for name in state if name.startswith("theta/")} == final.keys()
    for name, tensor in final.items():
        assert_close(state[name], tensor, atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=8)
@given(
    network=st.sampled_from([reference_network, layer_norm_network]),
    stats=st.sampled_from(["batch", "ema"]),
    lr=st.sampled_from([1e-4, 1e-3, 1e-2]),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    adam=st.booleans(),
)
def test_learning_equals_torchs_own_training(network, stats, lr, momentum, adam):
    # In float64: in float32 an activation at ReLU's kink may fall on either side, and Adam magnifies what is near zero.
    module, x = network().double(), golden("base")["x"][:3, :8].double()
    backbone = TorchBackbone(module, (3, 32, 32))
    adapter = Tent(lr, "adam" if adam else "sgd", momentum, stats=stats)
    reference = (
        TorchTent(module, torch.optim.Adam, lr=lr)
        if adam
        else TorchTent(module, torch.optim.SGD, lr=lr, momentum=momentum)
    )
    state = adapter.init(backbone)

    for batch in x:
        step = adapter.adapt(backbone, state, batch)
        state = step.state

        # Adam's step count is kept in float32
        assert_close(step.output.logits, reference.step(batch), atol=1e-6, rtol=1e-6)

    for name, parameter in reference.parameters.items():
        assert_close(state[f"theta/{name}"], parameter.detach(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("settings", [{"lr": 1e-3}, {"lr": 1e-3, "optimizer": "adam"}, {"lr": 1e-3, "stats": "batch"}])
@pytest.mark.parametrize("network", [reference_network, layer_norm_network])
def test_the_entropy_of_a_repeated_batch_falls(batch, network, settings):
    backbone, adapter = TorchBackbone(network(), (3, 32, 32)), Tent(**settings)
    state, losses = adapter.init(backbone), []

    for _ in range(6):
        step = adapter.adapt(backbone, state, batch[:8])
        state, losses = step.state, [*losses, step.scalars["loss"].item()]

    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_the_loss_is_the_mean_entropy_of_the_output(backbone, batch):
    adapter = Tent()

    step = adapter.adapt(backbone, adapter.init(backbone), batch)

    assert_close(step.scalars["loss"], entropy(step.output.logits).mean())
    assert step.scalars["accepted"]


def test_the_statistics_do_not_depend_on_what_the_parameters_learn_with(backbone, batch):
    slow, fast = (Tent(lr=lr) for lr in (1e-6, 1e-1))

    states = [adapter.adapt(backbone, adapter.init(backbone), batch).state for adapter in (slow, fast)]

    names = [name for name in states[0] if name.startswith("stats/")]
    assert names
    assert all(torch.equal(states[0][name], states[1][name]) for name in names)


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({}, {"theta", "momentum", "stats", "count"}),
        ({"stats": "batch"}, {"theta", "momentum"}),
        ({"optimizer": "adam"}, {"theta", "adam_mean", "adam_square", "adam", "stats", "count"}),
    ],
)
def test_a_state_holds_only_what_these_settings_need(backbone, settings, groups):
    assert {name.partition("/")[0] for name in Tent(**settings).init(backbone)} == groups


def test_layers_that_the_forward_does_not_reach_stay_as_they_are(batch):
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.unused = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.bn(self.conv(x))
            return self.fc((self.unused(x) if self.training else x).relu().mean((2, 3)))

    backbone, adapter = TorchBackbone(Auxiliary(), (3, 32, 32)), Tent()
    before = adapter.init(backbone)

    after = adapter.adapt(backbone, before, batch).state

    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "unused" not in name}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be > 0"),
        ({"lr": float("nan")}, "lr must be > 0"),
        ({"optimizer": "adagrad"}, "optimizer must be 'sgd' or 'adam', got 'adagrad'"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"stats": "source"}, "stats must be 'batch' or 'ema', got 'source'"),
        ({"stats_momentum": 0.0}, "stats_momentum must be in"),
    ],
)
def test_bad_settings_are_refused_when_the_adapter_is_made(settings, message):
    with pytest.raises(ValueError, match=message):
        Tent(**settings)
