import pytest
import torch
from torch.testing import assert_close

from tests.adapters.test_laws import BATCH_MODE, SHAPE, VARIANTS, begin, learn, make
from tests.networks import reference_network
from tests.states import bits
from tta_server import adapters
from tta_server.adapters import State
from tta_server.adapters.laws.law import layout
from tta_server.adapters.stack import adapt_stacked, predict_stacked, stack, unstack
from tta_server.models import TorchBackbone

STACKABLE = [name for name in VARIANTS if make(name).stackable]
UNSTACKABLE = [name for name in VARIANTS if not make(name).stackable]
STREAMS = 4
# An activation at ReLU's kink may fall on either side in float32: exact law, in float64; the issue's, in float32.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture(scope="module")
def batches(batches):
    """Smaller images, as the laws have them."""
    return batches[..., ::2, ::2].contiguous()


@pytest.fixture(scope="module")
def backbone() -> TorchBackbone:
    return TorchBackbone(reference_network(), SHAPE, name="reference")


@pytest.fixture(scope="module")
def double() -> TorchBackbone:
    return TorchBackbone(reference_network().double(), SHAPE, name="double")


@pytest.fixture
def images(batches):
    """4 streams x 4 images."""
    return batches[2, :16].reshape(STREAMS, 4, *SHAPE)


def learnt(adapter, backbone, batches) -> list[State]:
    """Return states that have gone different ways."""
    return [learn(adapter, backbone, begin(adapter, backbone), batches[i : i + 1, :8]) for i in range(STREAMS)]


@pytest.mark.parametrize("variant", STACKABLE)
def test_predictions_equal_the_loop_over_streams(variant, double, batches, images):
    adapter, batches, images = make(variant), batches.double(), images.double()
    states = learnt(adapter, double, batches)

    together = predict_stacked(adapter, double, states, images)

    for i, state in enumerate(states):
        alone = adapter.predict(double, state, images[i])
        assert_close(together.logits[i], alone.logits, atol=1e-9, rtol=1e-9)
        assert_close(together.features[i], alone.features, atol=1e-9, rtol=1e-9)
        assert together.moments.keys() == alone.moments.keys()


@pytest.mark.parametrize("variant", STACKABLE)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_steps_equal_the_loop_over_streams(variant, dtype, double, backbone, batches, images):
    adapter, network = make(variant), double if dtype == torch.float64 else backbone
    batches, images = batches.to(dtype), images.to(dtype)
    states, tolerance = learnt(adapter, network, batches), TOLERANCES[dtype]

    together = adapt_stacked(adapter, network, states, images)

    for step, state, x in zip(together, states, images, strict=True):
        alone = adapter.adapt(network, state, x)
        assert_close(step.output.logits, alone.output.logits, atol=tolerance, rtol=tolerance)
        assert_close(dict(step.output.moments), dict(alone.output.moments), atol=tolerance, rtol=tolerance)
        assert_close(dict(step.state), dict(alone.state), atol=tolerance, rtol=tolerance)
        assert_close(dict(step.scalars), dict(alone.scalars), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("variant", STACKABLE)
def test_a_stacked_step_keeps_the_layout_of_a_state(variant, backbone, batches, images):
    adapter = make(variant)
    states = learnt(adapter, backbone, batches)

    steps = adapt_stacked(adapter, backbone, states, images)

    for step, state in zip(steps, states, strict=True):
        assert layout(step.state) == layout(state)
        assert list(step.state) == list(state)
        assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in step.state.values())


@pytest.mark.parametrize("variant", STACKABLE)
@pytest.mark.parametrize("slot", [0, 2])
@pytest.mark.parametrize("neighbours", ["others", "copies", "not finite"])
def test_a_slot_does_not_depend_on_what_fills_the_others(variant, slot, neighbours, backbone, batches, images):
    adapter = make(variant)
    states = learnt(adapter, backbone, batches)
    fillings = {
        "others": ([states[(i * 3 + 1) % STREAMS] for i in range(STREAMS)], images.flip(0, 1)),
        "copies": ([states[slot]] * STREAMS, images[slot].expand_as(images)),
        "not finite": (states, torch.full_like(images, torch.nan)),
    }
    others, xs = list(fillings[neighbours][0]), fillings[neighbours][1].clone()
    others[slot], xs[slot] = states[slot], images[slot]

    (one, other), (answer, same) = (
        [adapt_stacked(adapter, backbone, *args)[slot] for args in ((states, images), (others, xs))],
        [predict_stacked(adapter, backbone, *args).logits[slot] for args in ((states, images), (others, xs))],
    )

    assert bits(one.state) == bits(other.state)
    assert bits(one.scalars) == bits(other.scalars)
    assert torch.equal(one.output.logits, other.output.logits)
    assert torch.equal(answer, same)


@pytest.mark.parametrize("variant", [name for name in STACKABLE if make(name).name not in ("source", "lame")])
def test_broken_images_stop_the_step_of_their_stream_only(variant, backbone, batches, images):
    adapter = make(variant)
    states, images = learnt(adapter, backbone, batches), images.clone()
    images[1] = torch.nan

    steps = adapt_stacked(adapter, backbone, states, images)

    assert not steps[1].scalars["accepted"]
    assert bits(steps[1].state) == bits(states[1])
    assert all(tensor.isfinite().all() for step in steps for tensor in step.state.values())


@pytest.mark.parametrize("variant", STACKABLE)
def test_neither_verb_changes_the_states_given(variant, backbone, batches, images):
    adapter = make(variant)
    states = learnt(adapter, backbone, batches)
    before, digest = [bits(state) for state in states], backbone.digest()

    predict_stacked(adapter, backbone, states, images)
    adapt_stacked(adapter, backbone, states, images)

    assert [bits(state) for state in states] == before
    assert backbone.digest() == digest


def test_a_state_keeps_nothing_of_its_neighbours_alive(backbone, batches, images):
    adapter = make("tent")

    states = [step.state for step in adapt_stacked(adapter, backbone, learnt(adapter, backbone, batches), images)]

    storages = [{tensor.untyped_storage().data_ptr() for tensor in state.values()} for state in states]
    assert not set.intersection(*storages)
    size = sum(tensor.nbytes for tensor in states[0].values())
    assert sum(next(iter(states[0].values())).untyped_storage().nbytes() for _ in storages[0]) == size


def test_one_stream_is_a_stack_of_one(backbone, batches, images):
    adapter = make("tent")
    states = learnt(adapter, backbone, batches)[:1]

    (step,) = adapt_stacked(adapter, backbone, states, images[:1])

    assert_close(dict(step.state), dict(adapter.adapt(backbone, states[0], images[0]).state), atol=1e-5, rtol=1e-5)


def test_unstacking_undoes_stacking():
    generator = torch.Generator().manual_seed(0)
    states = [
        {
            "a/one": torch.rand(3, 2, generator=generator),
            "b/flag": torch.tensor(i == 1),
            "a/none": torch.empty(0),
            "a/two": torch.rand((), generator=generator),
        }
        for i in range(3)
    ]

    again = unstack(stack(states), 3)

    assert [bits(state) for state in again] == [bits(state) for state in states]
    assert [layout(state) for state in again] == [layout(state) for state in states]


@pytest.mark.parametrize("variant", UNSTACKABLE)
def test_an_adapter_that_does_not_stack_is_refused(variant, backbone, images):
    adapter = make(variant)
    states = [begin(adapter, backbone)] * STREAMS

    for verb in (predict_stacked, adapt_stacked):
        with pytest.raises(ValueError, match=f"adapter '{adapter.name}' cannot be stacked"):
            verb(adapter, backbone, states, images)


@pytest.mark.parametrize("verb", [predict_stacked, adapt_stacked])
@pytest.mark.parametrize("shape", [(3, 4, *SHAPE), (4, *SHAPE), (4, 4, 3, 32, 32)])
def test_images_that_do_not_fit_are_refused(verb, shape, backbone):
    adapter = make("tent")

    with pytest.raises(ValueError, match="expected"):
        verb(adapter, backbone, [begin(adapter, backbone)] * STREAMS, torch.rand(shape))


def test_states_of_different_layouts_are_refused(backbone, images):
    states = [begin(make(variant), backbone) for variant in ("tent", "tent", "tent adam", "tent")]

    with pytest.raises(ValueError, match="state 2 differs from state 0"):
        adapt_stacked(make("tent"), backbone, states, images)


def test_no_states_are_refused(backbone, images):
    with pytest.raises(ValueError, match="no state to stack"):
        predict_stacked(make("tent"), backbone, [], images[:0])


@pytest.mark.parametrize("variant", BATCH_MODE)
def test_batches_of_one_are_refused_where_the_adapter_refuses_them(variant, backbone, images):
    adapter = make(variant)
    if not adapter.stackable or adapter.name == "lame":
        return

    for verb in (predict_stacked, adapt_stacked):
        with pytest.raises(ValueError, match="at least 2 images"):
            verb(adapter, backbone, [begin(adapter, backbone)] * STREAMS, images[:, :1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("variant", STACKABLE)
def test_stacked_steps_equal_the_loop_and_are_isolated_on_a_gpu(variant, batches, images, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    adapter, network = make(variant), TorchBackbone(reference_network().double(), SHAPE, device="cuda")
    states, images = learnt(adapter, network, batches.double().cuda()), images.double().cuda()

    together = adapt_stacked(adapter, network, states, images)
    copies = adapt_stacked(adapter, network, [states[2]] * STREAMS, images[2].expand_as(images).contiguous())

    for step, state, x in zip(together, states, images, strict=True):
        assert_close(dict(step.state), dict(adapter.adapt(network, state, x).state), atol=1e-9, rtol=1e-9)
    assert bits(copies[2].state) == bits(together[2].state)


def test_every_registered_adapter_is_either_stacked_or_refused():
    assert {make(name).name for name in [*STACKABLE, *UNSTACKABLE]} == set(adapters.names())
