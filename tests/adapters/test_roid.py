"""ROID against an independent implementation, and what only it promises."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from tests.networks import reference_network
from tta_server import adapters
from tta_server.models import TorchBackbone


def darker(images, index, generator):
    return images * 0.8


def independent(batches, lr: float, momentum: float, pull: float):
    """ROID's loss by hand: torch's BatchNorm in training mode and torch.optim.SGD."""
    network = reference_network().double().train().requires_grad_(False)
    named = {}
    for path, layer in network.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
            named |= {f"{path}.{n}": p.requires_grad_(True) for n, p in layer.named_parameters()}
    source = {n: p.detach().clone() for n, p in named.items()}
    optimizer = torch.optim.SGD(named.values(), lr=lr, momentum=momentum)
    moving, logits = torch.full((10,), 0.1, dtype=torch.float64), []
    for batch in batches:
        z = network(batch)
        p = z.softmax(1)
        logits.append(z.detach())
        d = 1 - cosine_similarity(moving[None], p.detach(), dim=1)
        d = (d - d.min()) / (d.max() - d.min())
        c = (p * z.log_softmax(1)).sum(1).detach()
        c = (c - c.min()) / (c.max() - c.min())
        kept = d >= d.mean()
        w = torch.exp(d * c / (1 / 3))
        moving = 0.9 * moving + 0.1 * p.detach().mean(0)
        q = p.clamp(0, 0.99)
        slr = -(q * torch.log(q / (1 - q) + 1e-5)).sum(1)
        a = network(darker(batch, 0, None))
        sce = -0.5 * (p * a.log_softmax(1)).sum(1) - 0.5 * (a.softmax(1) * z.log_softmax(1)).sum(1)
        loss = ((w * slr)[kept].sum() + (w * sce)[kept].sum()) / len(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_((1 - pull) * parameter + pull * source[name])
    return torch.stack(logits), {n: p.detach() for n, p in named.items()}, moving


def test_it_equals_an_independent_implementation(batches):
    # In float64, but for the moving prediction: in float32, rounding grows to 2e-5 on some processors.
    backbone, batches = TorchBackbone(reference_network().double(), (3, 32, 32)), batches.double()
    adapter = adapters.create("roid", stats="batch", lr=1e-3, prior=False, augment=darker)
    state = adapter.init(backbone)

    answers = []
    for batch in batches:
        step = adapter.adapt(backbone, state, batch)
        answers.append(step.output.logits)
        state = step.state

    logits, parameters, moving = independent(batches, 1e-3, 0.9, 0.01)
    torch.testing.assert_close(torch.stack(answers), logits, atol=1e-6, rtol=0)
    for name, tensor in parameters.items():
        torch.testing.assert_close(state[f"theta/{name}"], tensor, atol=1e-8, rtol=0)
    torch.testing.assert_close(state["moving/prediction"], moving, atol=1e-6, rtol=0, check_dtype=False)


def test_the_prior_multiplies_probabilities(backbone, batch):
    plain = adapters.create("roid", stats="batch", prior=False)
    corrected = adapters.create("roid", stats="batch")
    state = plain.init(backbone)

    before = plain.predict(backbone, state, batch).logits.softmax(1)
    after = corrected.predict(backbone, state, batch).logits.softmax(1)

    prior = before.mean(0)
    smoothing = (1 / 10) / prior.max()
    expected = before * (prior + smoothing) / (1 + smoothing * 10)
    torch.testing.assert_close(after, expected / expected.sum(1, keepdim=True))


def test_a_fresh_stream_has_no_prior(backbone, batch):
    adapter = adapters.create("roid")

    output = adapter.predict(backbone, adapter.init(backbone), batch)

    torch.testing.assert_close(output.logits.softmax(1), backbone.forward(batch).logits.softmax(1))


def test_a_full_pull_keeps_the_source(backbone, batch):
    adapter = adapters.create("roid", source_share=1.0)

    state = adapter.adapt(backbone, adapter.init(backbone), batch).state

    for name, tensor in backbone.norm_affine().items():
        assert torch.equal(state[f"theta/{name}"], tensor)


def test_each_step_draws_another_view(backbone, batch):
    seeds = []

    def noted(images, index, generator):
        seeds.append(generator.initial_seed())
        return images

    adapter = adapters.create("roid", augment=noted)
    state = adapter.init(backbone)
    for _ in range(3):
        state = adapter.adapt(backbone, state, batch).state

    assert len(set(seeds)) == 3


@pytest.mark.parametrize(("setting", "value"), [("source_share", 1.5), ("lr", 0.0), ("stats", "mean")])
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ValueError, match=setting):
        adapters.create("roid", **{setting: value})
