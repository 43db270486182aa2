import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from tta_server.models import slots
from tta_server.models.norm import NormCall, StreamNorm, replace_batch_norm

KINDS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}

# at least two images, so that the batch's statistics exist for every number of dimensions
shapes = st.integers(0, 3).flatmap(
    lambda spatial: st.tuples(st.integers(2, 6), st.integers(1, 5), *[st.integers(1, 4)] * spatial)
)


def trained(shape, *, affine: bool = True, eps: float = 1e-5, seed: int = 0) -> nn.Module:
    """Return a torch BatchNorm for such a batch, with nothing left at its initial value."""
    generator = torch.Generator().manual_seed(seed)
    norm = KINDS[len(shape)](shape[1], affine=affine, eps=eps)
    for tensor in [*norm.parameters(), norm.running_mean]:
        tensor.data.normal_(generator=generator)
    norm.running_var.uniform_(0.3, 3, generator=generator)
    return norm


def images(shape, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1)) * 2 + 1


def stream_norm(norm: nn.Module, statistics: str = "stored") -> StreamNorm:
    return StreamNorm("layer", copy.deepcopy(norm), NormCall(statistics))


@settings(deadline=None, max_examples=50)
@given(shape=shapes, affine=st.booleans(), eps=st.sampled_from([1e-5, 1e-3, 0.5]), seed=st.integers(0, 99))
def test_stored_statistics_give_bitwise_what_batch_norm_gives_in_evaluation(shape, affine, eps, seed):
    norm, x = trained(shape, affine=affine, eps=eps, seed=seed), images(shape, seed)

    assert torch.equal(stream_norm(norm)(x), norm.eval()(x))


@settings(deadline=None, max_examples=50)
@given(shape=shapes, affine=st.booleans(), eps=st.sampled_from([1e-5, 1e-3, 0.5]), seed=st.integers(0, 99))
def test_batch_statistics_give_what_batch_norm_gives_in_training(shape, affine, eps, seed):
    norm, x = trained(shape, affine=affine, eps=eps, seed=seed), images(shape, seed)

    assert_close(stream_norm(norm, "batch")(x), norm.train()(x), atol=1e-6, rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(shape=shapes, affine=st.booleans(), seed=st.integers(0, 99))
def test_the_gradient_through_batch_statistics_is_that_of_batch_norm_in_training(shape, affine, seed):
    norm = trained(shape, affine=affine, seed=seed).double()
    ours, x = stream_norm(norm, "batch"), images(shape, seed).double()
    weights = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    inputs = [x.clone().requires_grad_() for _ in range(2)]

    for layer, leaf in ((ours, inputs[0]), (norm.train(), inputs[1])):
        (layer(leaf).pow(3) * weights).sum().backward()

    assert_close(inputs[0].grad, inputs[1].grad)
    for name, parameter in norm.named_parameters():
        assert_close(ours.get_parameter(name).grad, parameter.grad)


@settings(deadline=None, max_examples=50)
@given(shape=shapes, seed=st.integers(0, 99), scale=st.floats(0.01, 100), offset=st.floats(-10, 10))
def test_reported_moments_equal_an_independent_computation(shape, seed, scale, offset):
    layer, x = stream_norm(trained(shape), "batch"), images(shape, seed) * scale + offset

    layer(x)

    rows = x.double().flatten(2) if len(shape) > 2 else x.double()[:, :, None]
    values = rows.transpose(0, 1).flatten(1)
    # the variance is read back from 1 / sqrt(var + eps) in float32
    tolerance = {"atol": 1e-6 * (1 + scale**2), "rtol": 1e-4}
    moments = layer.call.moments
    assert_close(moments["layer.running_mean"].double(), values.mean(1), **tolerance)
    assert_close(moments["layer.running_var"].double(), values.var(1, unbiased=True), **tolerance)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1)])
def test_batch_statistics_of_a_single_value_per_channel_are_refused(shape):
    layer = stream_norm(trained(shape), "batch")

    with pytest.raises(ValueError, match="'layer' needs more than one value per channel"):
        layer(images(shape))


def test_moments_carry_no_gradient():
    layer = stream_norm(trained((4, 3, 2, 2)), "batch")

    layer(images((4, 3, 2, 2)).requires_grad_())

    assert not any(tensor.requires_grad for tensor in layer.call.moments.values())


def test_stored_statistics_report_no_moments():
    layer = stream_norm(trained((4, 3)))

    layer(images((4, 3)))

    assert layer.call.moments == {}


@pytest.mark.parametrize("statistics", ["stored", "batch"])
@pytest.mark.parametrize("training", [False, True])
def test_no_forward_ever_writes_a_buffer(statistics, training):
    norm = trained((4, 3, 2, 2))
    layer = stream_norm(norm, statistics).train(training)

    for seed in range(3):
        layer(images((4, 3, 2, 2), seed))

    assert all(torch.equal(tensor, norm.state_dict()[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_moments_have_the_type_of_the_stored_statistics(dtype):
    layer = stream_norm(trained((8, 3, 4, 4)).to(dtype), "batch")

    layer(images((8, 3, 4, 4)).to(dtype))

    assert {tensor.dtype for tensor in layer.call.moments.values()} == {dtype}


def test_moments_have_the_type_of_the_stored_statistics_in_a_network_of_another_type():
    layer = stream_norm(trained((8, 3, 4, 4)), "batch")

    layer(images((8, 3, 4, 4)).bfloat16())

    assert {tensor.dtype for tensor in layer.call.moments.values()} == {torch.float32}


def test_tensors_keep_the_names_of_batch_norm():
    norm = trained((4, 3))

    assert set(stream_norm(norm).state_dict()) == set(norm.state_dict()) - {"num_batches_tracked"}


def stacked_norm(norm: nn.Module, statistics, streams: int) -> StreamNorm:
    layer = StreamNorm("layer", copy.deepcopy(norm), NormCall(statistics, streams=streams))
    for name, tensor in norm.named_parameters():
        # streams of their own scale and shift, as an override would put there
        factors = torch.arange(1, streams + 1, dtype=tensor.dtype)[:, None]
        setattr(layer, name, nn.Parameter(factors * tensor.detach()))
    return layer


def single_norm(norm: nn.Module, statistics, slot: int) -> StreamNorm:
    layer = stream_norm(norm, statistics)
    for parameter in layer.parameters():
        parameter.data *= slot + 1
    return layer


@pytest.mark.parametrize("formula", [False, True])
@settings(deadline=None, max_examples=25)
@given(
    shape=shapes, affine=st.booleans(), statistics=st.sampled_from(["stored", "batch", 0.3]), seed=st.integers(0, 99)
)
def test_stacked_streams_are_normalised_each_on_its_own(formula, shape, affine, statistics, seed):
    # on a CPU the formula stands for what other devices run
    norm = trained(shape, affine=affine, seed=seed).double()
    xs = images((3, *shape), seed).double().requires_grad_()
    weights = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    together = stacked_norm(norm, statistics, 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "_fused", lambda x: not formula)
        answers = together(xs.flatten(0, 1)).view(xs.shape)
        (answers.pow(3) * weights).sum().backward()

    for slot in range(3):
        alone, x = single_norm(norm, statistics, slot), xs[slot].detach().requires_grad_()
        (alone(x).pow(3) * weights[slot]).sum().backward()
        assert_close(answers[slot], alone(x))
        assert_close(xs.grad[slot], x.grad)
        for name, parameter in together.named_parameters():
            assert_close(parameter.grad[slot], alone.get_parameter(name).grad)
        for name, tensor in alone.call.moments.items():
            assert_close(together.call.moments[name][slot], tensor)


@settings(deadline=None, max_examples=25)
@given(shape=shapes, affine=st.booleans(), statistics=st.sampled_from(["stored", "batch"]), seed=st.integers(0, 99))
def test_a_stacked_stream_gets_bitwise_what_it_gets_alone_on_a_cpu(shape, affine, statistics, seed):
    norm, xs = trained(shape, affine=affine, seed=seed), images((3, *shape), seed)

    with torch.no_grad():
        answers = stacked_norm(norm, statistics, 3)(xs.flatten(0, 1)).view(xs.shape)

        for slot in range(3):
            assert torch.equal(answers[slot], single_norm(norm, statistics, slot)(xs[slot]))


@pytest.mark.parametrize("statistics", ["batch", 0.3])
def test_stacked_streams_of_a_single_value_per_channel_are_refused(statistics):
    layer = stacked_norm(trained((2, 3)), statistics, 2)

    with pytest.raises(ValueError, match="'layer' needs more than one value per channel"):
        layer(images((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("statistics", ["stored", "batch"])
def test_a_stacked_layer_keeps_the_type_of_its_images(statistics, dtype):
    layer = stacked_norm(trained((4, 3, 2, 2)), statistics, 2)

    assert layer(images((4, 3, 2, 2)).to(dtype)).dtype == dtype


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_every_kind_of_batch_norm_is_replaced(kind):
    network = nn.Sequential(kind(3), nn.ReLU(), nn.Sequential(kind(3)))

    assert replace_batch_norm(network, NormCall()) == (["0", "2.0"], [])
    assert [type(layer) for layer in (network[0], network[2][0])] == [StreamNorm, StreamNorm]


@pytest.mark.parametrize("other", [nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3, track_running_stats=True)])
def test_other_normalisations_are_left_alone(other):
    network = nn.Sequential(other)

    assert replace_batch_norm(network, NormCall()) == ([], [])
    assert network[0] is other


def test_a_layer_that_two_places_share_stays_shared():
    norm = trained((4, 3))
    network = nn.Sequential(norm, nn.ReLU(), norm)

    replaced, _ = replace_batch_norm(network, NormCall())

    assert network[0] is network[2]
    assert replaced == ["0"]


def test_layers_that_share_only_their_weight_keep_sharing_it():
    first, second = trained((4, 3), seed=1), trained((4, 3), seed=2)
    second.weight = first.weight
    network = nn.Sequential(first, second)

    replace_batch_norm(network, NormCall())

    assert network[0].weight is network[1].weight


def test_a_batch_norm_without_running_statistics_is_left_as_it_is():
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))

    assert replace_batch_norm(network, NormCall()) == ([], ["0"])
    assert type(network[0]) is nn.BatchNorm2d


class Activated(nn.BatchNorm2d):
    """As libraries have it: the layer that follows is a part of the norm."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.drop, self.act = nn.Identity(), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class Frozen(nn.Module):
    """A BatchNorm of buffers alone."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.eps = 1e-3
        for name, value in (("weight", 2.0), ("bias", 0.5), ("running_mean", 0.1), ("running_var", 0.7)):
            self.register_buffer(name, torch.full((features,), value))

    def forward(self, x: Tensor) -> Tensor:
        w, b, m, v = (t.view(1, -1, 1, 1) for t in (self.weight, self.bias, self.running_mean, self.running_var))
        return (x - m) * (v + self.eps).rsqrt() * w + b


Frozen.__name__ = "FrozenBatchNorm2d"


@pytest.mark.parametrize("kind", [Activated, Frozen])
def test_what_a_library_made_of_batch_norm_is_replaced_with_what_follows_in_it(kind):
    network, x = nn.Sequential(kind(3)).eval(), images((4, 3, 2, 2))
    expected, names = network(x), set(network.state_dict()) - {"0.num_batches_tracked"}

    replaced, left = replace_batch_norm(network, NormCall(rows=4))

    assert (replaced, left) == (["0"], [])
    assert_close(network(x), expected)
    assert set(network.state_dict()) == names


def test_a_subclass_that_does_something_of_its_own_is_left_as_it_is():
    class Doubling(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    network = nn.Sequential(Doubling(3))

    assert replace_batch_norm(network.eval(), NormCall()) == ([], ["0"])
