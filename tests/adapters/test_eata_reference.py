"""EATA's objective, its Fisher penalty above all, against the same steps with torch's own means, in float64."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.networks import reference_network
from tta_server import adapters
from tta_server.models import Reference, TorchBackbone

LR, MOMENTUM = 1e-2, 0.9


def in_place(batches, fisher, alpha):
    """Return the scales and shifts after the paper's steps, every image selected."""
    network = reference_network().double()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    theta = {
        f"{path}.{end}": getattr(layer, end)
        for path, layer in network.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for end in ("weight", "bias")
    }
    source = {name: parameter.detach().clone() for name, parameter in theta.items()}
    optimizer = torch.optim.SGD(theta.values(), lr=LR, momentum=MOMENTUM)
    for x in batches:
        p = functional.softmax(network(x), 1)
        entropies = -(p * p.log()).sum(1)
        loss = (torch.exp(math.log(10) - entropies.detach()) * entropies).mean()
        for name, parameter in theta.items():
            loss = loss + alpha * (fisher[name] * (parameter - source[name]) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in theta.items()}


@pytest.mark.parametrize("alpha", [0.0, 20.0, 2000.0])
def test_it_equals_the_same_steps_in_place(batches, alpha):
    backbone = TorchBackbone(reference_network().double(), (3, 32, 32))
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 1e-2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in backbone.norm_affine().items()
    }
    reference = Reference(backbone.spec.digest, {f"fisher/{name}": tensor for name, tensor in weights.items()})
    adapter = adapters.create(
        "eata", lr=LR, momentum=MOMENTUM, e_margin=1.0, d_margin=1.0, fisher_alpha=alpha, stats="batch"
    )
    state = adapter.init(backbone, reference)

    for x in batches[:4].double():
        step = adapter.adapt(backbone, state, x)
        state = step.state
        assert int(step.scalars["selected"]) == len(x)

    for name, tensor in in_place(batches[:4].double(), weights, alpha).items():
        torch.testing.assert_close(state[f"theta/{name}"], tensor, atol=1e-10, rtol=0)
