import pytest
import torch
from torch.func import grad, vmap
from torch.testing import assert_close

from tests.networks import reference_network
from tta_server.models import TorchBackbone
from tta_server.models.gradient import differentiate
from tta_server.models.stacked import stacked

STREAMS = 3


@pytest.fixture(scope="module")
def double() -> TorchBackbone:
    return TorchBackbone(reference_network().double(), (3, 32, 32))


@pytest.fixture
def xs(batches):
    return batches[0, :12].double().view(STREAMS, 4, 3, 32, 32)


def scales(backbone):
    """Scales and shifts (S, C) of three streams."""
    factors = torch.tensor([1.0, 0.9, 1.2], dtype=torch.float64)[:, None]
    return {name: factors * tensor.detach() for name, tensor in backbone.norm_affine().items()}


@pytest.mark.parametrize("statistics", ["stored", "batch", 0.3])
def test_one_forward_of_all_streams_equals_one_of_each(statistics, double, xs):
    together = double.forward_stacked(xs, scales(double), statistics)

    for i, x in enumerate(xs):
        alone = double.forward(x, {name: tensor[i] for name, tensor in scales(double).items()}, statistics)
        assert_close(together.logits[i], alone.logits)
        assert_close(together.features[i], alone.features)
        assert_close({name: tensor[i] for name, tensor in together.moments.items()}, dict(alone.moments))


def slopes(loss):
    """What `grad` returns, as adapters take it."""

    def of(theta, x):
        return differentiate(lambda theta: (loss(theta, x), ()), theta)[0]

    return of


@pytest.mark.parametrize("way", [slopes, grad])  # a user's own adapter may take torch's
@pytest.mark.parametrize("statistics", ["stored", "batch", 0.3])
def test_the_gradient_of_a_stacked_forward_is_that_of_each_stream(statistics, way, double, xs):
    def loss(backbone):
        def of(theta, x):
            output = backbone.forward(x, theta, statistics)
            return output.logits.pow(3).mean() + output.features.square().mean()

        return of

    together = vmap(way(loss(stacked(double))))(scales(double), xs)

    for i, x in enumerate(xs):
        alone = grad(loss(double))({name: tensor[i] for name, tensor in scales(double).items()}, x)
        assert_close({name: tensor[i] for name, tensor in together.items()}, alone)


def test_moments_carry_no_gradient(double, xs):
    def loss(theta, x):
        output = stacked(double).forward(x, theta, "batch")
        return output.moments["bn.running_mean"].sum() + 0 * output.logits.sum()

    gradients = vmap(slopes(loss))(scales(double), xs)

    assert not any(tensor.any() for tensor in gradients.values())


def test_a_gradient_that_is_the_same_for_all_streams_reaches_each(double, xs):
    def loss(theta, x):
        return stacked(double).forward(x, theta, "batch").logits[:, 1].sum()

    together = vmap(slopes(loss))(scales(double), xs)

    alone = {name: tensor[2] for name, tensor in scales(double).items()}
    expected = grad(lambda theta: double.forward(xs[2], theta, "batch").logits[:, 1].sum())(alone)
    assert_close({name: tensor[2] for name, tensor in together.items()}, expected)


def test_overrides_that_are_no_batch_norm_are_left_to_vmap(double, xs):
    heads = {"fc.bias": torch.arange(3 * 10, dtype=torch.float64).view(3, 10)}

    logits = vmap(lambda head, x: stacked(double).forward(x, head).logits)(heads, xs)

    assert_close(
        logits,
        torch.stack([double.forward(x).logits for x in xs]) - double.weights()["fc.bias"] + heads["fc.bias"][:, None],
    )
    with pytest.raises(ValueError, match="only tensors of BatchNorm layers can be stacked"):
        double.forward_stacked(xs, heads)


def test_a_gradient_by_the_images_is_left_to_vmap(double, xs):
    slopes = vmap(grad(lambda x: stacked(double).forward(x).logits.sum()))(xs)

    assert_close(slopes[1], grad(lambda x: double.forward(x).logits.sum())(xs[1]))


def test_a_stacked_backbone_is_otherwise_the_backbone(double):
    assert stacked(double).spec == double.spec
    assert stacked(double).norm_stats().keys() == double.norm_stats().keys()


def test_a_backbone_that_cannot_stack_is_left_alone():
    backbone = object()

    assert stacked(backbone) is backbone


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (2, 4, 3, 16, 16)])
def test_images_of_another_shape_are_refused(shape, double):
    with pytest.raises(ValueError, match="expected"):
        double.forward_stacked(torch.rand(shape, dtype=torch.float64))


def test_overrides_without_a_streams_dimension_are_refused(double, xs):
    with pytest.raises(ValueError, match=r"override 'bn.weight' has shape \(16,\), expected \(3, 16\)"):
        double.forward_stacked(xs, {"bn.weight": torch.ones(16, dtype=torch.float64)})


def test_a_failed_stacked_forward_leaves_the_next_one_alone(double, xs):
    before = double.forward(xs[0], statistics="batch").logits
    with pytest.raises(ValueError, match="expected"):
        double.forward_stacked(xs[:, :, :1])

    assert torch.equal(double.forward(xs[0], statistics="batch").logits, before)
