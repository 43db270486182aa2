"""The laws of an adapter, run over every registered one in every mode that changes what it keeps."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from load_tests.cases import without_chance
from tests.networks import bundle, layer_norm_network, reference_network
from tta_server import adapters
from tta_server.adapters import Adapter, State, laws
from tta_server.adapters.laws import Subject, behaviour
from tta_server.adapters.laws.law import bits
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


# Laws do not depend on how large images are: these have a quarter of the pixels of those of the reference outputs.
SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def batches(batches: Tensor) -> Tensor:
    return batches[..., ::2, ::2].contiguous()


@pytest.fixture(scope="module")
def backbone() -> TorchBackbone:
    return TorchBackbone(reference_network(), SHAPE, name="reference")


@pytest.fixture(scope="module")
def layer_norm_backbone() -> TorchBackbone:
    return TorchBackbone(layer_norm_network(), SHAPE, name="layernorm")


@pytest.fixture(scope="module")
def double() -> TorchBackbone:
    """The network of the reference outputs in float64."""
    return TorchBackbone(reference_network().double(), SHAPE)


@pytest.fixture
def subject(adapter, backbone, double, batches) -> Subject:
    exact = Subject(adapter, double, bundle(double), batches.double())
    return Subject(adapter, backbone, bundle(backbone), batches, exact)


def begin(adapter: Adapter, backbone: TorchBackbone) -> State:
    return adapter.init(backbone, bundle(backbone))


def learn(adapter: Adapter, backbone: TorchBackbone, state: State, batches: Tensor) -> State:
    for batch in batches:
        state = adapter.adapt(backbone, state, batch).state
    return state


def test_every_adapter_is_under_the_laws():
    assert {variant.split()[0] for variant in VARIANTS} == set(adapters.names())


# The two that are left out are tried below, on generated inputs.
@pytest.mark.parametrize(
    "law",
    [
        law
        for law in laws.LAWS
        if law not in (behaviour.streams_are_isolated, behaviour.a_non_finite_image_never_yields_a_non_finite_state)
    ],
    ids=lambda law: law.__name__,
)
def test_every_adapter_keeps_the_law(subject, law: Callable[[Subject], None], monkeypatch):
    monkeypatch.setattr(
        "tta_server.adapters.vida.STEPS", 4
    )  # of what is prepared; `test_broken_laws.py` takes them all
    law(subject)


# Law 3
def test_something_is_learnt(adapter, backbone, batches):
    initial = begin(adapter, backbone)

    learnt = learn(adapter, backbone, initial, batches[:1])

    assert (bits(learnt) == bits(initial)) == (adapter.name in FROZEN)


# Law 4
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.booleans(), min_size=4, max_size=8))
def test_streams_are_isolated(subject, order):
    behaviour.streams_are_isolated(subject, order)


# Those that answer from the batch's statistics, and those that answer from features, differ from the first batch on.
@pytest.mark.parametrize(
    "variant", [name for name in VARIANTS if name not in BATCH_MODE and make(name).name not in ("adanpc", "roid")]
)
def test_a_fresh_state_answers_as_the_source(variant, backbone, batch):
    adapter = make(variant)

    assert torch.equal(
        adapter.predict(backbone, begin(adapter, backbone), batch).logits, backbone.forward(batch).logits
    )


def test_a_fresh_prior_prefers_no_class(backbone, batch):
    adapter = make("roid")

    found, source = adapter.predict(backbone, begin(adapter, backbone), batch).logits, backbone.forward(batch).logits

    torch.testing.assert_close(found.softmax(1), source.softmax(1), atol=1e-6, rtol=0)  # float32 sums


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


# Law 7
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row=st.integers(0, 15),
    value=st.sampled_from([torch.nan, torch.inf, -torch.inf, 3e38]),
    whole=st.booleans(),
)
def test_a_non_finite_image_never_yields_a_non_finite_state(subject, row, value, whole):
    behaviour.a_non_finite_image_never_yields_a_non_finite_state(subject, row, value, whole)


# Law 8
@pytest.mark.parametrize("variant", [name for name in VARIANTS if getattr(make(name), "stats", "") == "batch"])
def test_batch_statistics_of_one_image_are_refused(variant, backbone, batches):
    adapter = make(variant)
    state, single = begin(adapter, backbone), batches[1][:1]

    for verb in (adapter.predict, adapter.adapt):
        with pytest.raises(ValueError, match="at least 2 images"):
            verb(backbone, state, single)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_is_learnt_on_a_gpu(adapter, batches):
    # In float64: in float32 an image at a threshold is selected on one device and not on the other.
    cpu, gpu = (TorchBackbone(reference_network().double(), SHAPE, device=name) for name in ("cpu", "cuda"))
    adapter, images = without_chance(adapter), batches[:4].double()

    learnt = learn(adapter, gpu, begin(adapter, gpu), images.cuda())

    for name, tensor in learn(adapter, cpu, begin(adapter, cpu), images).items():
        torch.testing.assert_close(learnt[name].cpu(), tensor, atol=1e-8, rtol=1e-6)  # other kernels, other sums


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
