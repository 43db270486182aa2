import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.networks import bundle, reference_network
from tta_server import adapters
from tta_server.guard.trust import Trust
from tta_server.models import TorchBackbone

RADIUS = 0.3
TENT = adapters.create("tent")


@pytest.fixture(scope="module")
def backbone():
    return TorchBackbone(reference_network(), (3, 32, 32))


def relative(state, weights, copy):
    """Return the distance of one copy, computed in another way."""
    pairs = [(state[f"{copy}/{name}"], weights[name]) for name in weights if f"{copy}/{name}" in state]
    own, source = (torch.cat([pair[side].flatten() for pair in pairs]).double() for side in (0, 1))
    return float((own - source).norm() / source.norm())


@settings(deadline=None, max_examples=60)
@given(
    scale=st.floats(-6, 6),
    seed=st.integers(0, 2**31),
    name=st.sampled_from(["tent", "eata", "sar", "roid", "rotta", "cotta"]),
)
def test_projected_parameters_are_within_the_trust_region_whatever_the_step(backbone, scale, seed, name):
    adapter = adapters.create(name)
    initial = adapter.init(backbone, bundle(backbone))
    trust = Trust(adapter, backbone, initial)
    generator = torch.Generator().manual_seed(seed)
    state = {
        key: tensor + 10**scale * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for key, tensor in initial.items()
    }

    projected = trust.project(state, RADIUS)

    assert trust.distance(projected) <= RADIUS
    for copy in {key.partition("/")[0] for key in initial} & {"theta", "teacher"}:
        assert relative(projected, backbone.weights(), copy) <= RADIUS


def test_random_gradients_never_lead_out_of_the_trust_region(backbone):
    initial = TENT.init(backbone)
    trust = Trust(TENT, backbone, initial)
    generator = torch.Generator().manual_seed(0)
    state = initial
    for _ in range(50):
        scale = 10 ** float(torch.empty(()).uniform_(-6, 6, generator=generator))
        moved = {
            name: tensor - scale * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()
        }

        state = trust.project(moved, RADIUS)

        assert relative(state, backbone.weights(), "theta") <= RADIUS


def test_a_state_inside_is_left_as_it_is(backbone):
    initial = TENT.init(backbone)
    state = {name: tensor * 1.01 for name, tensor in initial.items()}

    assert Trust(TENT, backbone, initial).project(state, RADIUS) is state


def test_what_is_drawn_back_keeps_its_direction(backbone):
    initial = TENT.init(backbone)
    state = {name: tensor + 1 for name, tensor in initial.items()}

    projected = Trust(TENT, backbone, initial).project(state, RADIUS)

    steps = torch.cat([(projected[name] - initial[name]).flatten() for name in initial if name.startswith("theta/")])
    assert steps.min() > 0
    torch.testing.assert_close(steps, torch.full_like(steps, float(steps[0])), rtol=1e-4, atol=0)


def test_statistics_and_slots_of_optimisers_are_not_drawn_back(backbone):
    initial = TENT.init(backbone)
    state = {name: tensor + 100 for name, tensor in initial.items()}

    projected = Trust(TENT, backbone, initial).project(state, RADIUS)

    assert all(projected[name] is state[name] for name in state if not name.startswith("theta/"))


@pytest.mark.parametrize("name", ["bn", "lame", "source"])
def test_an_adapter_that_learns_no_parameters_has_no_distance(backbone, name):
    adapter = adapters.create(name)
    initial = adapter.init(backbone)
    trust = Trust(adapter, backbone, initial)

    assert not trust
    assert trust.distance(initial) == trust.update(initial, initial) == 0
    assert trust.project(initial, RADIUS) is initial
