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


SMALL = {"vida": {"rank_high": 4}}
# Every adapter that learns parameters, in each of its scopes.
SCOPES = {"cotta all": {"scope": "all"}, "vida all": {"scope": "all", "rank_high": 4}}
BACKBONE = TorchBackbone(reference_network(), (3, 32, 32))


def make(variant):
    name = variant.split()[0]
    return adapters.create(name, **SCOPES.get(variant, SMALL.get(name, {})))


def regions(name):
    adapter = make(name)
    return adapter.regions(BACKBONE, adapter.init(BACKBONE, bundle(BACKBONE)))


LEARNING = [name for name in [*adapters.names(), *SCOPES] if regions(name)]


@pytest.fixture(scope="module")
def backbone():
    return BACKBONE


def relative(state, weights, copy):
    """Return the distance of one copy, computed in another way."""
    pairs = [(state[f"{copy}/{name}"], weights[name]) for name in weights if f"{copy}/{name}" in state]
    own, source = (torch.cat([pair[side].flatten() for pair in pairs]).double() for side in (0, 1))
    return float((own - source).norm() / source.norm())


def effective(state, weights, copy):
    """Return the weights that a copy of adapters results in, computed in another way; `relative` measures the rest."""
    found = {name: state[f"{copy}/{name}"].double() for name in weights if f"{copy}/{name}" in state}
    for up in [name for name in state if name.startswith(f"{copy}/") and name.endswith("_up")]:
        layer, kind = up.removeprefix(f"{copy}/").removesuffix("_up").rsplit(".", 1)
        weight = found.get(f"{layer}.weight", weights[f"{layer}.weight"].double())
        change = torch.einsum("or,ri->oi", state[up].double(), state[up.replace("_up", "_down")].double())
        scale = float(state[f"scale/{kind}"])
        counted = 1 if 0 <= scale <= 2 else scale - 1 if scale > 2 else 1 + scale
        found[f"{layer}.weight"] = weight + counted * change.reshape(weight.shape)
    return {f"{copy}/{name}": tensor for name, tensor in found.items()}


def wild(initial, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        key: tensor + 10**scale * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for key, tensor in initial.items()
    }


def test_the_adapters_that_learn_parameters_are_known():
    silent = {"adanpc", "bn", "lame", "source"}  # features, statistics, nothing

    assert {name.split()[0] for name in LEARNING} == set(adapters.names()) - silent


@pytest.mark.parametrize("name", LEARNING)
@settings(deadline=None, max_examples=12)
@given(scale=st.floats(-6, 12), seed=st.integers(0, 2**31))
def test_projected_parameters_are_within_the_trust_region_whatever_the_step(backbone, scale, seed, name):
    adapter = make(name)
    initial = adapter.init(backbone, bundle(backbone))
    trust = Trust(adapter, backbone, initial)

    projected = trust.project(wild(initial, scale, seed), RADIUS)

    assert trust.distance(projected) <= RADIUS
    for copy in {key.partition("/")[0] for key in initial} & {"theta", "teacher"}:
        weights = effective(initial, backbone.weights(), copy)
        own = effective(projected, backbone.weights(), copy)
        moved = torch.cat([(own[n] - w).flatten() for n, w in weights.items()]).norm()
        assert float(moved / torch.cat([w.flatten() for w in weights.values()]).norm()) <= RADIUS * (1 + 1e-9)


@pytest.mark.parametrize("name", LEARNING)
def test_what_is_scaled_a_thousand_times_is_far(backbone, name):
    adapter = make(name)
    initial = adapter.init(backbone, bundle(backbone))
    trust = Trust(adapter, backbone, initial)
    state = wild(initial, -3, 0)
    held = {key for region in adapter.regions(backbone, initial) for key in region.names}

    scaled = {key: tensor * 1000 if key in held else tensor for key, tensor in state.items()}

    assert trust.distance(state) < 1
    assert min(trust.distance(scaled), trust.update(state, scaled)) > 10


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


@pytest.mark.parametrize("name", sorted(set(adapters.names()) - set(LEARNING)))
def test_an_adapter_that_learns_no_parameters_has_no_distance(backbone, name):
    adapter = adapters.create(name)
    initial = adapter.init(backbone, bundle(backbone))
    trust = Trust(adapter, backbone, initial)

    assert not trust
    assert trust.distance(initial) == trust.update(initial, initial) == 0
    assert trust.project(initial, RADIUS) is initial
