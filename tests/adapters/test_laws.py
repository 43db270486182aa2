"""The laws of an adapter, run over every registered one in every mode that changes what it keeps."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.networks import bundle, reference_network
from tests.states import bits
from tta_server import adapters
from tta_server.adapters import Adapter, State
from tta_server.models import TorchBackbone

# A new adapter gets at least one row here; `test_every_adapter_is_under_the_laws` sees to it.
VARIANTS: dict[str, dict] = {
    "source": {},
    "bn": {"stats": "ema"},
    "bn batch": {"stats": "batch"},
    "tent": {"stats": "ema"},
    "tent batch": {"stats": "batch"},
    "tent adam": {"optimizer": "adam", "lr": 1e-3},
    "eata": {"e_margin": 1.0, "d_margin": 1.0},
    "eata batch": {"stats": "batch", "e_margin": 1.0},
    "lame": {},
    "lame knn": {"affinity": "knn"},
    "adanpc": {"threshold": 0.0, "capacity": 40},
    "sar": {"e_margin": 1.0},
    "sar batch": {"stats": "batch", "e_margin": 1.0, "reset_margin": 0.0},
    "roid": {},
    "roid batch": {"stats": "batch"},
    "rotta": {"capacity": 16},
    "cotta": {"views": 2},
    "cotta batch": {"stats": "batch", "scope": "all", "views": 2},
    "cotta views": {"views": 2, "average": "always"},
    "vida": {"views": 2},
    "vida batch": {"stats": "batch", "scope": "all", "views": 2, "reference_compat": True},
}


def make(variant: str) -> Adapter:
    return adapters.create(variant.split()[0], **VARIANTS[variant])


BATCH_MODE = [name for name in VARIANTS if make(name).batch_coupled]
# For each adapter that selects images, settings with which none is good enough.
SELECTING = {"e_margin", "confidence"}
SELECTS_NOTHING: dict[str, dict] = {
    "eata": {"e_margin": 1e-6},
    "eata batch": {"e_margin": 1e-6},
    "sar": {"e_margin": 1e-6},
    "sar batch": {"e_margin": 1e-6},
    "adanpc": {"threshold": 2.0},
}
FROZEN = ["source", "lame"]


@pytest.fixture(params=VARIANTS)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return make(request.param)


def begin(adapter: Adapter, backbone: TorchBackbone) -> State:
    return adapter.init(backbone, bundle(backbone))


def learn(adapter: Adapter, backbone: TorchBackbone, state: State, batches: Tensor) -> State:
    for batch in batches:
        state = adapter.adapt(backbone, state, batch).state
    return state


def layout(state: State) -> dict:
    return {name: (tensor.shape, tensor.dtype, tensor.device) for name, tensor in state.items()}


def test_every_adapter_is_under_the_laws():
    assert {variant.split()[0] for variant in VARIANTS} == set(adapters.names())


# Law 1
def test_neither_verb_changes_the_state_or_the_backbone(adapter, backbone, batches):
    state = learn(adapter, backbone, begin(adapter, backbone), batches[:2])
    before, digest, images = bits(state), backbone.digest(), batches[2].clone()

    adapter.predict(backbone, state, images)
    adapter.adapt(backbone, state, images)

    assert bits(state) == before
    assert backbone.digest() == digest == backbone.spec.digest
    assert torch.equal(images, batches[2])


def test_a_state_shares_no_memory_with_the_backbone(adapter, backbone):
    state = begin(adapter, backbone)
    owned = {tensor.data_ptr() for tensor in [*backbone.weights().values(), *backbone.norm_stats().values()]}

    assert not owned & {tensor.data_ptr() for tensor in state.values()}


# Law 2
@pytest.mark.parametrize("variant", BATCH_MODE)
def test_with_batch_statistics_adapt_answers_as_predict(variant, backbone, batches):
    adapter = make(variant)
    state = learn(adapter, backbone, begin(adapter, backbone), batches[:2])

    assert torch.equal(
        adapter.adapt(backbone, state, batches[2]).output.logits, adapter.predict(backbone, state, batches[2]).logits
    )


def test_rows_do_not_depend_on_their_neighbours_unless_coupled(adapter, backbone, batches):
    state = learn(adapter, backbone, begin(adapter, backbone), batches[:2])
    other = torch.cat([batches[3][:1], batches[4][1:]])

    one, two = (adapter.predict(backbone, state, x).logits[0] for x in (batches[3], other))

    assert torch.equal(one, two) != adapter.batch_coupled


# Law 3
def test_learning_is_deterministic(adapter, backbone, batches):
    runs = [learn(adapter, backbone, begin(adapter, backbone), batches[:4]) for _ in range(2)]

    assert bits(runs[0]) == bits(runs[1])


def test_the_layout_of_a_state_never_changes(adapter, backbone, batches):
    initial = begin(adapter, backbone)

    learnt = learn(adapter, backbone, initial, batches[:3])

    assert layout(learnt) == layout(initial)
    assert list(learnt) == list(initial)
    assert not any(tensor.requires_grad for tensor in learnt.values())


def test_something_is_learnt(adapter, backbone, batches):
    initial = begin(adapter, backbone)

    learnt = learn(adapter, backbone, initial, batches[:1])

    assert (bits(learnt) == bits(initial)) == (adapter.name in FROZEN)


def test_a_seed_moves_with_each_step_that_draws(adapter, backbone, batches):
    state = begin(adapter, backbone)
    if "seed" not in state:
        return

    seeds = [int(learn(adapter, backbone, state, batches[:steps])["seed"]) for steps in range(3)]

    assert len(set(seeds)) == 3


# Law 4
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.booleans(), min_size=4, max_size=8))
def test_streams_are_isolated(adapter, backbone, batches, order):
    alone = learn(adapter, backbone, begin(adapter, backbone), batches[: order.count(True)])
    mine, noisy, seen = begin(adapter, backbone), begin(adapter, backbone), 0

    for turn in order:
        if turn:
            mine, seen = adapter.adapt(backbone, mine, batches[seen]).state, seen + 1
        else:
            noisy = adapter.adapt(backbone, noisy, torch.rand(16, 3, 32, 32)).state

    assert bits(mine) == bits(alone)
    answers = [adapter.predict(backbone, state, batches[7]).logits for state in (mine, alone)]
    assert torch.equal(*answers)


# Law 5
def test_init_is_a_full_reset(adapter, backbone, batches):
    fresh = begin(adapter, backbone)
    learn(adapter, backbone, fresh, batches[:3])

    again = begin(adapter, backbone)

    assert bits(again) == bits(fresh)
    assert bits(learn(adapter, backbone, again, batches[:2])) == bits(learn(adapter, backbone, fresh, batches[:2]))


# Those that answer from the batch's statistics, and those that answer from features, differ from the first batch on.
@pytest.mark.parametrize(
    "variant",
    [
        name
        for name in VARIANTS
        if name.split()[0] in ("source", "bn", "tent", "eata", "sar", "rotta", "cotta", "vida")
        and name not in BATCH_MODE
    ],
)
def test_a_fresh_state_answers_as_the_source(variant, backbone, batch):
    adapter = make(variant)

    assert torch.equal(
        adapter.predict(backbone, begin(adapter, backbone), batch).logits, backbone.forward(batch).logits
    )


# Law 6
@pytest.mark.parametrize(("variant", "settings"), SELECTS_NOTHING.items())
def test_a_step_that_selects_nothing_leaves_the_state_bitwise(variant, settings, backbone, batches):
    state = learn(make(variant), backbone, begin(make(variant), backbone), batches[:2])
    picky = adapters.create(variant.split()[0], **{**VARIANTS[variant], **settings})

    step = picky.adapt(backbone, state, batches[2])

    assert not step.scalars["accepted"]
    assert bits(step.state) == bits(state)


def test_every_adapter_that_selects_is_asked_to_select_nothing():
    selecting = {name.split()[0] for name in VARIANTS if SELECTING & set(vars(make(name)))}

    assert {variant.split()[0] for variant in SELECTS_NOTHING} == selecting


def test_a_step_that_is_not_accepted_leaves_the_state_bitwise(adapter, backbone, batches):
    state = learn(adapter, backbone, begin(adapter, backbone), batches[:2])

    step = adapter.adapt(backbone, state, torch.full((16, 3, 32, 32), torch.nan))

    assert not step.scalars["accepted"]
    assert bits(step.state) == bits(state)


# Law 7
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row=st.integers(0, 15),
    value=st.sampled_from([torch.nan, torch.inf, -torch.inf, 3e38]),
    whole=st.booleans(),
)
def test_a_non_finite_image_never_yields_a_non_finite_state(adapter, backbone, batches, row, value, whole):
    state = learn(adapter, backbone, begin(adapter, backbone), batches[:1])
    poisoned = batches[1].clone()
    poisoned[row, :, :, :] = value if whole else poisoned[row]
    poisoned[row, 0, 0, 0] = value

    step = adapter.adapt(backbone, state, poisoned)

    assert all(tensor.isfinite().all() for tensor in step.state.values())
    assert torch.isfinite(adapter.predict(backbone, step.state, batches[2]).logits).all()


# Law 8
def test_a_batch_of_one_works_or_is_refused_before_anything_changes(adapter, backbone, batches):
    state = learn(adapter, backbone, begin(adapter, backbone), batches[:1])
    before, single = bits(state), batches[1][:1]

    if getattr(adapter, "stats", "") == "batch":
        with pytest.raises(ValueError, match="at least 2 images"):
            adapter.predict(backbone, state, single)
        with pytest.raises(ValueError, match="at least 2 images"):
            adapter.adapt(backbone, state, single)
    else:
        assert torch.isfinite(adapter.predict(backbone, state, single).logits).all()
        learnt = adapter.adapt(backbone, state, single).state
        assert all(tensor.isfinite().all() for tensor in learnt.values())

    assert bits(state) == before


# Law 9
def test_a_state_survives_being_written_and_read(adapter, backbone, batches):
    state = learn(adapter, backbone, begin(adapter, backbone), batches[:2])

    again = adapters.load_state(adapter, backbone, adapters.dump_state(adapter, backbone, state), bundle(backbone))

    assert bits(again) == bits(state)
    assert layout(again) == layout(state)
    assert torch.equal(
        adapter.adapt(backbone, again, batches[3]).output.logits,
        adapter.adapt(backbone, state, batches[3]).output.logits,
    )


# Law 10, in float64: in float32 an activation at ReLU's kink may fall on either side, and its gradient with it.
@pytest.mark.parametrize("variant", [name for name in VARIANTS if make(name).stackable])
def test_stacked_states_equal_the_loop_over_streams(variant, batches):
    adapter = make(variant)
    backbone = TorchBackbone(reference_network().double(), (3, 32, 32))
    states = [learn(adapter, backbone, begin(adapter, backbone), batches[i : i + 1].double()) for i in range(3)]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    images = batches[4:7].double()

    together = torch.vmap(lambda state, x: adapter.adapt(backbone, state, x)[:2])(stacked, images)

    for i, state in enumerate(states):
        alone = adapter.adapt(backbone, state, images[i])
        torch.testing.assert_close(together[1].logits[i], alone.output.logits, atol=1e-5, rtol=1e-5)
        for name in state:
            torch.testing.assert_close(together[0][name][i], alone.state[name], atol=1e-5, rtol=1e-5)


# Law 11
class NoSync(TorchDispatchMode):
    """Raise at the operators that make the host wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        if name.startswith(("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")):
            raise AssertionError(f"{name} makes the host wait for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", [name for name in VARIANTS if not getattr(make(name), "synchronises", False)])
def test_neither_verb_synchronises_with_the_device(variant, backbone, batches):
    adapter = make(variant)
    state = begin(adapter, backbone)

    with NoSync():
        adapter.predict(backbone, state, batches[0])
        adapter.adapt(backbone, state, batches[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_is_learnt_on_a_gpu(adapter, backbone, batches, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    gpu = TorchBackbone(reference_network(), (3, 32, 32), device="cuda")

    learnt = learn(adapter, gpu, begin(adapter, gpu), batches[:4].cuda())

    for name, tensor in learn(adapter, backbone, begin(adapter, backbone), batches[:4]).items():
        # other kernels, other order of float32 sums, over four steps
        torch.testing.assert_close(learnt[name].cpu(), tensor, atol=1e-4, rtol=1e-4)


# Networks without BatchNorm
@pytest.mark.parametrize("variant", [name for name in VARIANTS if not name.startswith("bn")])
def test_a_network_without_batch_norm_is_served(variant, layer_norm_backbone, batches):
    adapter = make(variant)
    adapters.base.check(adapter, layer_norm_backbone, bundle(layer_norm_backbone))
    initial = begin(adapter, layer_norm_backbone)

    learnt = learn(adapter, layer_norm_backbone, initial, batches[:2])

    assert (bits(learnt) == bits(initial)) == (adapter.name in FROZEN)


def test_an_adapter_that_does_not_fit_the_backbone_is_refused(layer_norm_backbone):
    with pytest.raises(ValueError, match="adapter 'bn' needs batchnorm, which backbone 'layernorm' does not have"):
        adapters.base.check(adapters.create("bn"), layer_norm_backbone)
