"""A state from a file is judged like a step: whatever no step could have made is refused."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tta_server.runtime.fakes import tiny
from tta_server import adapters, models
from tta_server.adapters import State
from tta_server.guard.canary import CanaryImages
from tta_server.guard.guard import Guard
from tta_server.guard.judge import Judge, Unguarded
from tta_server.models import Model
from tta_server.settings import GuardSettings


@cache
def model() -> Model:
    return models.load("glyphs")


@cache
def fresh(name: str) -> State:
    """Return the state that a stream of an adapter starts from."""
    return adapters.create(name).init(model().backbone, model().reference)


@cache
def learnt(name: str) -> tuple[State, State]:
    """Return the state that a stream of an adapter starts from, and that after two small steps."""
    adapter = adapters.create(name)
    initial = state = fresh(name)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        x = torch.rand(4, *model().backbone.spec.input_shape, generator=generator)
        state = adapter.adapt(model().backbone, state, x).state
    return initial, state


@cache
def canary() -> CanaryImages:
    """Return every fourth of the bundle's canary images: enough to tell what reads from what does not."""
    reference = model().reference
    few = {f"canary/{name}": tensor[::4] for name, tensor in reference.part("canary").items()}
    return CanaryImages(replace(reference, tensors={**reference.tensors, **few}), model().backbone.device)


@cache
def guard(name: str) -> Guard:
    return Guard(model().backbone, adapters.create(name), model().reference, GuardSettings(), canary())


def spoilt(state: State, name: str, value: float) -> State:
    tensor = state[name].clone()
    tensor.view(-1)[-1] = value
    return {**state, name: tensor}


def groups(name: str) -> dict[str, str]:
    """Return one float tensor of each group of an adapter's state, statistics by their kind."""
    found = {}
    for key, tensor in fresh(name).items():
        kind = key.rpartition(".")[2] if ".running_" in key else ""
        if tensor.is_floating_point() and tensor.numel():
            found[f"{key.partition('/')[0]} {kind}".strip()] = key
    return found


FLOATS = [(name, group) for name in adapters.names() for group in groups(name)]
SQUARES = [(name, group) for name, group in FLOATS if group.endswith("running_var") or group == "adam_square"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38, -3e38])
@pytest.mark.parametrize(("name", "group"), FLOATS)
def test_numbers_out_of_every_range_are_refused_in_every_group_of_every_adapter(name, group, value):
    initial, state = learnt(name)

    finding = Unguarded().vet(spoilt(state, groups(name)[group], value), initial)

    assert finding is not None
    assert groups(name)[group] in finding.reason


@pytest.mark.parametrize(("name", "group"), SQUARES)
def test_what_is_a_square_is_never_negative(name, group):
    initial, state = learnt(name)

    finding = Unguarded().vet(spoilt(state, groups(name)[group], -1.0), initial)

    assert finding is not None
    assert "is never below 0" in finding.reason


@pytest.mark.parametrize("name", adapters.names())
def test_what_steps_made_is_taken(name):
    initial, state = learnt(name)

    for each in (initial, state):
        for judge in (Unguarded(), guard(name)):
            assert judge.vet(each, initial) is None


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(1.5, 1e4))
def test_parameters_beyond_the_trust_region_are_refused_with_their_distance(factor):
    initial, state = learnt("tent")
    far = {key: tensor * factor if key.startswith("theta/") else tensor for key, tensor in state.items()}

    finding = guard("tent").vet(far, initial, closely=False)

    assert finding is not None
    assert (finding.cause, "more than 0.3" in finding.reason) == ("trust_region", True)


def test_parameters_that_no_longer_read_the_canary_are_refused():
    initial, state = learnt("tent")
    judge = Guard(model().backbone, adapters.create("tent"), model().reference, GuardSettings(max_distance=10))
    blind = {key: torch.zeros_like(tensor) if key.startswith("theta/") else tensor for key, tensor in state.items()}

    finding = judge.vet(blind, initial)

    assert finding is not None
    assert finding.cause == "canary"


@pytest.mark.parametrize("name", [name for name in adapters.names() if "momentum" in groups(name)])
def test_momentum_that_would_throw_the_next_step_far_is_refused(name):
    initial, state = learnt(name)
    wild = {key: tensor + 1e5 if key.startswith("momentum/") else tensor for key, tensor in state.items()}

    finding = guard(name).vet(wild, initial)

    assert finding is not None
    assert (finding.cause, "its next step would move" in finding.reason) == ("update", True)


def test_without_a_bundle_ranges_distance_and_the_next_step_are_judged():
    backbone, adapter = tiny(), adapters.create("tent")
    judge: Judge = Guard(backbone, adapter, None, GuardSettings())
    initial = adapter.init(backbone)

    assert judge.vet(initial, initial) is None
    assert judge.vet({key: tensor * 10 for key, tensor in initial.items()}, initial) is not None
