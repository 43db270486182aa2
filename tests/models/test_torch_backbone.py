import copy
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from tests.networks import layer_norm_network, reference_network
from tta_server.models import TorchBackbone

SHAPE = (3, 8, 8)


class Small(nn.Module):
    """A classifier for 3x8x8 images with every kind of layer that matters here."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm(4)
        self.rms = nn.RMSNorm(4)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.group(self.bn(self.conv(x)))).mean((2, 3))
        return self.fc(self.dropout(self.rms(self.layer(x))))


def small() -> Small:
    torch.manual_seed(7)
    module = Small()
    for tensor in [*module.parameters(), module.bn.running_mean]:
        tensor.data += 0.1 * torch.randn_like(tensor)
    return module


def images(rows: int = 4, shape=SHAPE) -> Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(3))


TENSORS = sorted(name for name in Small().state_dict() if not name.endswith("num_batches_tracked"))


def classifier(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *layers)


# The head
def test_the_last_linear_layer_is_the_head():
    backbone = TorchBackbone(classifier(nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 5)), SHAPE)

    assert (backbone.spec.features, backbone.spec.classes) == (7, 5)


def test_a_named_head_is_used():
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 5)
            self.body = nn.Linear(192, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x.flatten(1)))

    backbone = TorchBackbone(Reversed(), SHAPE, head="head")

    assert (backbone.spec.features, backbone.spec.classes) == (6, 5)


@pytest.mark.parametrize("name", ["nothing", "conv", "bn"])
def test_a_head_that_is_no_linear_layer_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=f"head '{name}' is not a Linear layer of the network; it has fc"):
        TorchBackbone(small(), SHAPE, head=name)


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match="no Linear layer"):
        TorchBackbone(nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()), SHAPE)


def test_a_last_linear_layer_that_does_not_make_the_logits_is_refused():
    network = classifier(nn.Linear(192, 7), nn.Unflatten(1, (7, 1, 1)), nn.Conv2d(7, 5, 1), nn.Flatten())

    with pytest.raises(ValueError, match=r"head '1' of backbone .* name the Linear layer that makes the logits"):
        TorchBackbone(network, SHAPE)


def test_a_last_linear_layer_that_is_not_reached_is_refused():
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 5)
            self.aux = nn.Linear(192, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1)) + (self.aux(x.flatten(1)) if self.training else 0)

    with pytest.raises(ValueError, match="was not reached; name another head"):
        TorchBackbone(Auxiliary(), SHAPE)


def test_a_head_that_is_applied_to_every_token_is_refused():
    network = nn.Sequential(nn.Flatten(2), nn.Linear(64, 5))

    with pytest.raises(ValueError, match=r"takes features of shape \(\(2, 3, 5\), \(2, 3, 64\)\)"):
        TorchBackbone(network, SHAPE)


def test_a_network_that_returns_no_tensor_is_refused():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return self.fc(x.flatten(1)), None

    with pytest.raises(ValueError, match="name the Linear layer that makes the logits"):
        TorchBackbone(Pair(), SHAPE)


@pytest.mark.parametrize("error", [RuntimeError, TypeError, AssertionError, IndexError, KeyError, ValueError])
def test_a_network_that_cannot_take_such_images_is_refused_whatever_it_raises(error):
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 5)

        def forward(self, x: Tensor) -> Tensor:
            raise error("wrong image height")

    with pytest.raises(ValueError, match="wrong image height"):
        TorchBackbone(Picky(), SHAPE)


def test_features_are_the_input_of_the_head():
    module = small().eval()
    output = TorchBackbone(module, SHAPE).forward(images())

    assert_close(module.fc(output.features), output.logits)
    assert output.features.shape == (4, 4)


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
    kinds = ("running_mean", "running_var", "noise")
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


# Overrides
@settings(deadline=None, max_examples=40)
@given(names=st.sets(st.sampled_from(TENSORS)), seed=st.integers(0, 99))
def test_overrides_equal_a_module_whose_tensors_were_replaced(names, seed):
    module = small().eval()
    generator = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    overrides = {name: torch.rand(state[name].shape, generator=generator) + 0.1 for name in names}
    replaced = copy.deepcopy(module)
    replaced.load_state_dict(state | overrides)
    backbone = TorchBackbone(module, SHAPE)

    overridden, plain = backbone.forward(images(), overrides).logits, backbone.forward(images()).logits

    assert torch.equal(overridden, replaced(images()))
    assert torch.equal(plain, module(images()))
    assert backbone.digest() == backbone.spec.digest


def test_an_unknown_override_is_refused_by_name():
    with pytest.raises(ValueError, match=r"backbone 'small' has no tensor 'bn.gamma' to override"):
        TorchBackbone(small(), SHAPE).forward(images(), {"bn.gamma": torch.ones(4)})


@pytest.mark.parametrize(("name", "shape"), [("fc.bias", (1,)), ("bn.weight", ()), ("conv.weight", (4, 3, 1, 1))])
def test_an_override_of_another_shape_is_refused_even_if_it_would_broadcast(name, shape):
    with pytest.raises(ValueError, match=f"override '{name}' has shape"):
        TorchBackbone(small(), SHAPE).forward(images(), {name: torch.ones(shape)})


def test_a_refused_forward_leaves_the_backbone_usable():
    backbone = TorchBackbone(small(), SHAPE)
    before = backbone.forward(images()).logits

    with pytest.raises(RuntimeError):
        backbone.forward(images(), {"fc.weight": torch.ones(5, 4, dtype=torch.int32)})

    assert torch.equal(backbone.forward(images()).logits, before)
    assert backbone.digest() == backbone.spec.digest


@pytest.mark.parametrize("statistics", ["stored", "batch"])
def test_gradient_flows_through_overrides(statistics):
    backbone = TorchBackbone(small(), SHAPE)
    state = {name: tensor.clone().requires_grad_() for name, tensor in backbone.weights().items()}

    backbone.forward(images(), state, statistics).logits.square().sum().backward()

    # a bias in front of batch statistics cancels: its gradient is rounding
    cancelled = {"conv.bias"} if statistics == "batch" else set()
    assert all(state[name].grad.abs().max() > 1e-6 for name in state.keys() - cancelled)


def test_overriding_a_tied_weight_overrides_it_everywhere():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(192, 192, bias=False), nn.Linear(192, 192, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x.flatten(1)))

    backbone, weight = TorchBackbone(Tied(), SHAPE, head="second"), torch.rand(192, 192)

    logits = backbone.forward(images(), {"first.weight": weight}).logits

    assert_close(logits, images().flatten(1) @ weight.T @ weight.T)


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


# The digest
def test_the_digest_is_the_same_for_the_same_weights():
    assert TorchBackbone(small(), SHAPE).spec.digest == TorchBackbone(small(), SHAPE, name="other").spec.digest


@pytest.mark.parametrize("name", TENSORS)
def test_the_digest_changes_with_the_smallest_change_of_any_tensor(name):
    module = small()
    before = TorchBackbone(module, SHAPE).spec.digest
    value = module.state_dict()[name].view(-1)[-1:]

    value.copy_(torch.nextafter(value, torch.full_like(value, torch.inf)))

    assert TorchBackbone(module, SHAPE).spec.digest != before


def test_the_digest_changes_with_a_name_a_shape_and_a_type():
    class Named(nn.Module):
        def __init__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 5)
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1))

    variants = [
        Named("a", (2, 3), torch.float32),
        Named("b", (2, 3), torch.float32),
        Named("a", (3, 2), torch.float32),
        Named("a", (2, 3), torch.int32),
        Named("a", (), torch.int64),
        Named("a", (0,), torch.bool),
    ]

    assert len({TorchBackbone(module, SHAPE).spec.digest for module in variants}) == len(variants)


def test_a_damaged_weight_shows_in_the_digest():
    backbone = TorchBackbone(small(), SHAPE)

    backbone.weights()["fc.bias"].data[0] += 1

    assert backbone.digest() != backbone.spec.digest


# Threads
@pytest.mark.parametrize("statistics", ["stored", "batch"])
def test_threads_with_different_overrides_get_the_right_answers(statistics):
    backbone = TorchBackbone(small(), SHAPE)
    states = [{name: tensor * (1 + i) for name, tensor in backbone.norm_affine().items()} for i in range(8)]
    alone = [backbone.forward(images(i + 2), state, statistics) for i, state in enumerate(states)]
    barrier = threading.Barrier(8)

    def work(i: int) -> list:
        barrier.wait()
        return [backbone.forward(images(i + 2), states[i], statistics) for _ in range(25)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(8)))

    for expected, got in zip(alone, answers, strict=True):
        assert all(torch.equal(output.logits, expected.logits) for output in got)
        assert all(torch.equal(output.features, expected.features) for output in got)
        assert all(torch.equal(out.moments[k], v) for out in got for k, v in expected.moments.items())
    assert backbone.digest() == backbone.spec.digest


@pytest.mark.parametrize("verb", ["weights", "norm_affine", "norm_stats", "digest"])
def test_reading_the_weights_during_a_forward_of_another_thread_gives_the_frozen_ones(verb):
    reached, finish = threading.Event(), threading.Event()

    class Slow(Small):
        slow = False

        def forward(self, x: Tensor) -> Tensor:
            if self.slow:
                reached.set()
                assert finish.wait(10)
            return super().forward(x)

    torch.manual_seed(7)
    backbone = TorchBackbone(Slow(), SHAPE)
    overrides = {name: tensor + 1 for name, tensor in (backbone.weights() | backbone.norm_stats()).items()}

    def read() -> object:
        found = getattr(backbone, verb)()
        return found if verb == "digest" else {name: tensor.tolist() for name, tensor in found.items()}

    expected = read()
    Slow.slow = True

    with ThreadPoolExecutor(2) as pool:
        forward = pool.submit(backbone.forward, images(), overrides)
        assert reached.wait(10)
        reading = pool.submit(read)
        wait([reading], timeout=0.1)  # it would be over by then if it did not wait for the forward
        finish.set()
        forward.result(10)

    assert reading.result() == expected


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
