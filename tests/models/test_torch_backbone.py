"""What the backbone answers, and what adapters ask it for."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from tests.models.small import SHAPE, classifier, images, small
from tests.networks import layer_norm_network, reference_network
from tta_server.models import TorchBackbone


# Answers
def test_logits_are_those_of_the_module_in_evaluation_mode():
    module = small()

    logits = TorchBackbone(module, SHAPE).forward(images()).logits

    assert torch.equal(logits, module.eval()(images()))


def test_batch_statistics_are_those_of_the_module_in_training_mode(batch):
    module = reference_network()
    backbone = TorchBackbone(module, (3, 32, 32))

    logits = backbone.forward(batch, statistics="batch").logits

    # torch picks another kernel order in training
    assert_close(logits, module.train()(batch), atol=1e-5, rtol=1e-5)


def test_moments_are_reported_for_every_batch_norm_and_only_for_this_call(backbone, batch):
    kinds = ("running_mean", "running_var")
    layers = {name.rpartition(".")[0] for name in backbone.norm_stats()}

    learnt, answered = backbone.forward(batch, statistics="batch"), backbone.forward(batch)

    assert set(learnt.moments) == {f"{layer}.{kind}" for layer in layers for kind in kinds}
    assert answered.moments == {}
    assert not any(tensor.requires_grad for tensor in learnt.moments.values())


def test_moments_move_statistics_as_training_would(batch):
    module = reference_network().train()
    backbone = TorchBackbone(module, (3, 32, 32))
    source = {name: tensor.clone() for name, tensor in backbone.norm_stats().items()}

    moments = backbone.forward(batch, statistics="batch").moments
    module(batch)

    for name, tensor in source.items():
        assert_close(torch.lerp(tensor, moments[name], 0.1), module.get_buffer(name), atol=1e-6, rtol=1e-5)


def test_dropout_is_off():
    backbone = TorchBackbone(small().train(), SHAPE)

    assert torch.equal(backbone.forward(images()).logits, backbone.forward(images()).logits)


@given(mean=st.lists(st.floats(-1, 1), min_size=3, max_size=3), std=st.lists(st.floats(0.1, 2), min_size=3, max_size=3))
@settings(deadline=None, max_examples=20)
def test_mean_and_std_equal_normalising_by_hand(mean, std):
    module, x = small().eval(), images()
    by_hand = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)

    logits = TorchBackbone(module, SHAPE, mean=mean, std=std).forward(x).logits

    assert_close(logits, module(by_hand), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("setting", ["mean", "std"])
def test_a_mean_or_std_for_another_number_of_channels_is_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} has 1 values, expected one for each of the 3 channels"):
        TorchBackbone(small(), SHAPE, **{setting: (0.5,)})


@pytest.mark.parametrize("std", [(1, 0, 1), (1, 1, -1), (1, float("nan"), 1)])
def test_a_std_that_is_not_positive_is_refused(std):
    with pytest.raises(ValueError, match="std must be positive"):
        TorchBackbone(small(), SHAPE, std=std)


@pytest.mark.parametrize("shape", [(4, 8, 8, 3), (3, 8, 8), (4, 1, 8, 8), (4, 3, 8, 9), (4, 192)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"image batch has shape \(.*\), expected \(N, 3, 8, 8\); send channels first"):
        TorchBackbone(small(), SHAPE).forward(torch.rand(shape))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(0, *SHAPE), "image batch is empty; send at least one image"),
        (
            torch.zeros(2, *SHAPE, dtype=torch.uint8),
            r"images are uint8, expected floats in \[0, 1\]; divide bytes by 255",
        ),
    ],
)
def test_no_image_and_bytes_are_refused(x, message):
    backbone = TorchBackbone(small(), SHAPE)

    for call in (
        lambda: backbone.forward(x),
        lambda: backbone.forward(x, statistics="batch"),
        lambda: backbone.forward_stacked(x[None]),
        lambda: backbone.styles(x, backbone.norm_layers[:1]),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_images_are_not_changed():
    x = images()

    TorchBackbone(classifier(nn.ReLU(inplace=True), nn.Linear(192, 5)), SHAPE).forward(x)

    assert torch.equal(x, images())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("statistics", ["stored", "batch"])
def test_modules_of_other_float_types_are_served(dtype, statistics):
    module = reference_network()
    x = images(8, (3, 32, 32))
    expected = TorchBackbone(module, (3, 32, 32)).forward(x, statistics=statistics).logits

    output = TorchBackbone(module.to(dtype), (3, 32, 32)).forward(x, statistics=statistics)

    assert output.logits.dtype == dtype
    # bfloat16 keeps 8 bits; logits here lie within 15 of zero
    tolerance = 1e-4 if dtype == torch.float64 else 0.3
    assert_close(output.logits.float(), expected, atol=tolerance, rtol=0.05)


# Frozen
def test_the_module_given_is_copied_and_not_changed():
    module = small().train()
    kinds, before = [type(layer) for layer in module.modules()], copy.deepcopy(module.state_dict())
    backbone = TorchBackbone(module, SHAPE)
    answer = backbone.forward(images()).logits

    module.fc.weight.data.zero_()

    assert torch.equal(backbone.forward(images()).logits, answer)
    assert [type(layer) for layer in module.modules()] == kinds
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before if name != "fc.weight")


def test_no_parameter_asks_for_a_gradient():
    backbone = TorchBackbone(small(), SHAPE)

    assert not any(tensor.requires_grad for tensor in backbone.weights().values())
    assert not backbone.forward(images()).logits.requires_grad


# What adapters ask for
@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (nn.BatchNorm2d(3), {"0.weight", "0.bias"}),
        (nn.GroupNorm(1, 3), {"0.weight", "0.bias"}),
        (nn.LayerNorm(8), {"0.weight", "0.bias"}),
        (nn.LayerNorm(8, bias=False), {"0.weight"}),
        (nn.RMSNorm(8), {"0.weight"}),
        (nn.BatchNorm2d(3, affine=False), set()),
        (nn.LayerNorm(8, elementwise_affine=False), set()),
        (nn.GroupNorm(1, 3, affine=False), set()),
        (nn.Identity(), set()),
    ],
)
def test_norm_affine_holds_the_scales_and_shifts_and_nothing_else(layer, names):
    backbone = TorchBackbone(nn.Sequential(layer, nn.Flatten(), nn.Linear(192, 5)), SHAPE)

    assert set(backbone.norm_affine()) == names
    assert ("norm_affine" in backbone.spec.capabilities) == bool(names)
    assert ("batchnorm" in backbone.spec.capabilities) == isinstance(layer, nn.BatchNorm2d)
    assert "grad" in backbone.spec.capabilities


def test_norm_stats_are_the_sources(backbone):
    module = reference_network()
    names = {name for name in module.state_dict() if name.endswith(("running_mean", "running_var"))}

    stats = backbone.norm_stats()

    assert set(stats) == names
    assert all(torch.equal(tensor, module.get_buffer(name)) for name, tensor in stats.items())


def test_a_network_without_batch_norm_has_no_statistics():
    backbone = TorchBackbone(layer_norm_network(), (3, 32, 32))

    assert backbone.norm_stats() == {}
    assert backbone.forward(images(2, (3, 32, 32)), statistics="batch").moments == {}


def test_weights_are_all_parameters(backbone):
    assert set(backbone.weights()) == {name for name, _ in reference_network().named_parameters()}


def test_what_adapters_ask_for_can_be_given_back_as_overrides():
    backbone = TorchBackbone(small(), SHAPE)

    logits = backbone.forward(images(), backbone.weights() | backbone.norm_affine() | backbone.norm_stats()).logits

    assert torch.equal(logits, backbone.forward(images()).logits)


def test_a_shared_batch_norm_is_named_once_and_can_be_overridden():
    norm = nn.BatchNorm1d(192)
    backbone = TorchBackbone(classifier(norm, nn.ReLU(), norm, nn.Linear(192, 5)), SHAPE)
    changed = {name: tensor + 1 for name, tensor in (backbone.norm_affine() | backbone.norm_stats()).items()}
    other = copy.deepcopy(norm).eval()
    other.load_state_dict({name.rpartition(".")[2]: tensor for name, tensor in changed.items()}, strict=False)
    head = backbone.weights()

    logits = backbone.forward(images(), changed).logits

    expected = other(torch.relu(other(images().flatten(1)))) @ head["4.weight"].T + head["4.bias"]
    assert_close(logits, expected)


def test_the_name_is_the_given_one_or_the_class():
    assert TorchBackbone(small(), SHAPE).spec.name == "small"
    assert TorchBackbone(small(), SHAPE, name="mine").spec.name == "mine"


@pytest.mark.parametrize("again", [copy.deepcopy, lambda backbone: pickle.loads(pickle.dumps(backbone))])
def test_a_copy_answers_alike_and_is_independent(again):
    backbone = TorchBackbone(small(), SHAPE)
    expected = backbone.forward(images())

    other = again(backbone)

    with backbone._lock:  # each has its own
        found = other.forward(images())
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.features, expected.features)
    assert not {t.data_ptr() for t in other.weights().values()} & {t.data_ptr() for t in backbone.weights().values()}
