"""SAR against an independent implementation, and what only it promises."""

import math

import pytest
import torch
from torch import nn

from tests.networks import reference_network
from tests.states import bits
from tta_server import adapters


def independent(batches, lr: float, momentum: float, rho: float, margin: float, layers: list[str]):
    """SAR by hand: torch's BatchNorm in training mode, torch.optim.SGD, weights moved there and back."""
    network = reference_network().train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    named = {n: p for n, p in network.named_parameters() if n.rpartition(".")[0] in layers}
    network.requires_grad_(False)
    for parameter in named.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(named.values(), lr=lr, momentum=momentum)
    bound, moving, logits = margin * math.log(10), None, []
    for batch in batches:
        out = network(batch)
        logits.append(out.detach())
        h = -(out.softmax(1) * out.log_softmax(1)).sum(1)
        reliable = h < bound
        h[reliable].mean().backward()
        norm = torch.stack([p.grad.norm() for p in named.values()]).norm()
        before = {n: p.detach().clone() for n, p in named.items()}
        with torch.no_grad():
            for parameter in named.values():
                parameter += rho / (norm + 1e-12) * parameter.grad
        optimizer.zero_grad()
        out = network(batch)[reliable]
        h = -(out.softmax(1) * out.log_softmax(1)).sum(1)
        loss = h[h < bound].mean()
        loss.backward()
        value = float(loss.detach())
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(before[name])
        optimizer.step()
        optimizer.zero_grad()
        moving = value if moving is None else 0.9 * moving + 0.1 * value
    return torch.stack(logits), {n: p.detach() for n, p in named.items()}, moving


def test_it_equals_an_independent_implementation(backbone, batches):
    adapter = adapters.create("sar", stats="batch", reset_margin=0.0, lr=1e-3)
    state = adapter.init(backbone)
    layers = sorted({name.removeprefix("theta/").rpartition(".")[0] for name in state if name.startswith("theta/")})

    answers = []
    for batch in batches:
        step = adapter.adapt(backbone, state, batch)
        answers.append(step.output.logits)
        state = step.state

    logits, parameters, moving = independent(batches, 1e-3, 0.9, 0.05, 0.4, layers)
    torch.testing.assert_close(torch.stack(answers), logits, atol=1e-5, rtol=0)
    for name, tensor in parameters.items():
        torch.testing.assert_close(state[f"theta/{name}"], tensor, atol=1e-6, rtol=0)
    assert float(state["moving/entropy"]) == pytest.approx(moving, abs=1e-5)


def test_the_last_quarter_of_the_layers_is_left_alone(backbone):
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in backbone.norm_affine()))

    state = adapters.create("sar").init(backbone)

    kept = {name.removeprefix("theta/").rpartition(".")[0] for name in state if name.startswith("theta/")}
    assert kept == set(layers[: len(layers) - len(layers) // 4])


def test_a_collapse_starts_the_stream_again(backbone, batches):
    adapter = adapters.create("sar", reset_margin=0.99)
    initial = adapter.init(backbone)

    step = adapter.adapt(backbone, initial, batches[0])

    assert step.scalars["reset"]
    learnt = {n: t for n, t in step.state.items() if not n.startswith(("stats/", "count/"))}
    assert bits(learnt) == bits({n: initial[n] for n in learnt})


def test_momentum_does_not_move_a_stream_without_reliable_images(backbone, batches):
    state = adapters.create("sar").init(backbone)
    state = adapters.create("sar").adapt(backbone, state, batches[0]).state

    step = adapters.create("sar", e_margin=1e-6).adapt(backbone, state, batches[1])

    assert bits(step.state) == bits(state)


@pytest.mark.parametrize(
    ("setting", "value"), [("rho", 0.0), ("e_margin", 0.0), ("reset_margin", 1.0), ("frozen_share", 1.0), ("lr", -1.0)]
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ValueError, match=setting):
        adapters.create("sar", **{setting: value})
