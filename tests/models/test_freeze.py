"""What is served is a copy of a network that runs itself, whole, with finite numbers; what cannot be one is refused."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from tests.models import odd
from tests.models.odd import SHAPE, drawn
from tests.models.small import images
from tta_server.models import Custom, Preprocess, TorchBackbone, load
from tta_server.models.freeze import tensors

EIGHT = Custom(preprocess=Preprocess(SHAPE[1:]))


def patched() -> nn.Module:
    network = drawn(odd.Plain)

    def forward(x: Tensor) -> Tensor:
        return network.fc(torch.relu(network.bn(network.conv(x))).mean((2, 3)))

    network.forward = forward
    return network


class Lambda(odd.Plain):
    def __init__(self) -> None:
        super().__init__()
        self.part = lambda x: self.bn(self.conv(x))

    def maps(self, x: Tensor) -> Tensor:
        return torch.relu(self.part(x))


class Hooked(odd.Plain):
    """Keeps what a layer makes, by a function that holds the network."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}
        self.bn.register_forward_hook(lambda _layer, _args, made: self.kept.update(maps=made))

    def forward(self, x: Tensor) -> Tensor:
        self.maps(x)
        return self.fc(self.kept["maps"].mean((2, 3)))


class Method(Hooked):
    """Keeps it by a method."""

    def __init__(self) -> None:
        super().__init__()
        self.bn._forward_hooks.clear()
        self.bn.register_forward_hook(self.keep)

    def keep(self, _layer: nn.Module, _args: object, made: Tensor) -> None:
        self.kept["maps"] = made


def parallel() -> nn.Module:
    return nn.DataParallel(drawn(odd.Plain))


def parallel_part() -> nn.Module:
    network = drawn(odd.Plain)
    network.conv = nn.DataParallel(network.conv)
    return network


def dynamic() -> nn.Module:
    quantised = torch.ao.quantization.quantize_dynamic
    return quantised(drawn(odd.Plain).eval(), {nn.Linear}, dtype=torch.qint8)


def scripted() -> nn.Module:
    return torch.jit.script(drawn(odd.Plain))


def partly_scripted() -> nn.Module:
    return nn.Sequential(nn.Identity(), torch.jit.script(drawn(odd.Plain)))


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))


class OwnNames(nn.Module):
    """Saves and loads the network within."""

    def __init__(self) -> None:
        super().__init__()
        self.net = drawn(odd.Plain)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def state_dict(self, *args, **named):
        return self.net.state_dict(*args, **named)

    def load_state_dict(self, state_dict, strict=True):
        return self.net.load_state_dict(state_dict, strict)


def served(factory: str, **more: object):
    return load(f"tests.models.test_freeze:{factory}", custom=EIGHT, **more).backbone


# Functions that hold a network
@pytest.mark.parametrize(("factory", "first"), [("patched", "conv"), ("Lambda", "conv")])
def test_a_network_whose_copy_would_run_the_original_is_refused(factory, first):
    with pytest.raises(ValueError, match=rf"its forward runs layers \('{first}' first\) of .* copy of; .* a method"):
        served(factory)


def test_a_hook_that_holds_the_original_is_named():
    with pytest.raises(ValueError, match=r"KeyError: 'maps'; a hook of layer 'bn' belongs to .* make it a method"):
        served("Hooked")


def test_a_method_as_a_hook_is_that_of_the_copy():
    network = Method().eval()
    backbone = TorchBackbone(network, SHAPE)

    answers = backbone.forward(images()).logits

    assert network.kept == {}
    assert_close(answers, network(images()))


def test_the_network_that_was_copied_keeps_no_hook():
    network = drawn(odd.Plain)

    TorchBackbone(network, SHAPE)

    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in network.modules())
    assert network.training


# What wraps a network, or is none yet
@pytest.mark.parametrize("factory", ["parallel", "parallel_part"])
def test_what_spreads_a_network_over_devices_is_taken_off(factory):
    backbone, plain = served(factory), TorchBackbone(drawn(odd.Plain), SHAPE)

    assert torch.equal(backbone.forward(images()).logits, plain.forward(images()).logits)
    assert backbone.spec.digest == plain.spec.digest
    assert backbone.spec.capabilities == plain.spec.capabilities
    assert backbone.findings.stacks


@pytest.mark.parametrize("front", ["", "module."])
def test_a_parallel_network_takes_its_weights_under_both_names(front, tmp_path):
    trained = {name: tensor + 1 for name, tensor in drawn(odd.Plain).state_dict().items()}
    save_file({front + name: tensor for name, tensor in trained.items()}, tmp_path / "w.safetensors")

    weights = served("parallel", weights=tmp_path / "w.safetensors").weights()

    assert torch.equal(weights["fc.weight"], trained["fc.weight"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("scripted", r"'tests.*scripted': the network is a ScriptModule, .*torch\.jit\.save and name the \.pt file"),
        (
            "partly_scripted",
            r"'tests.*partly_scripted': layer '1' is a ScriptModule, .*give the nn\.Module it was made of",
        ),
        ("lazy", r"'tests.*lazy': layer '1' is lazy and was not initialised: run one image through"),
    ],
)
def test_what_is_no_network_yet_or_no_more_is_refused_with_what_helps(factory, said):
    with pytest.raises(ValueError, match=said):
        served(factory)
    with pytest.raises(ValueError, match=said.partition("': ")[2]):
        TorchBackbone(globals()[factory](), SHAPE)


def test_a_layer_that_gives_itself_for_its_copy_has_no_twin():
    class Itself(odd.Plain):
        def __deepcopy__(self, memo: dict) -> nn.Module:
            return self

    backbone = TorchBackbone(nn.Sequential(drawn(Itself)), SHAPE)

    assert backbone.twin() is backbone


# Tensors
@pytest.mark.filterwarnings("ignore")
def test_a_quantised_network_answers_and_its_weights_are_in_its_digest():
    network = dynamic()
    other = copy.deepcopy(network)
    other.fc.set_weight_bias(torch.quantize_per_tensor(torch.rand(4, 16), 0.01, 0, torch.qint8), torch.zeros(4))

    backbone = served("dynamic")

    assert_close(backbone.forward(images()).logits, network(images()))
    assert backbone.spec.digest != TorchBackbone(other, SHAPE).spec.digest


def test_tensors_have_the_names_and_order_of_a_state_dict():
    network = drawn(odd.TiedNorms)

    assert [*tensors(network)] == [*network.state_dict()]
    assert [*tensors(OwnNames())] == [f"net.{name}" for name in OwnNames().state_dict()]


def test_a_network_with_a_state_dict_of_its_own_learns(tmp_path):
    trained = {name: tensor + 1 for name, tensor in OwnNames().state_dict().items()}
    save_file(trained, tmp_path / "w.safetensors")

    backbone = served("OwnNames", weights=tmp_path / "w.safetensors")

    assert torch.equal(backbone.norm_stats()["net.bn.running_mean"], trained["bn.running_mean"])
    assert torch.equal(backbone.weights()["net.fc.weight"], trained["fc.weight"])
    assert backbone.findings.stacks


# Numbers that are none
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("fc.bias", torch.nan, "tensor 'fc.bias' holds what is no finite number; take weights from before"),
        ("conv.weight", torch.inf, "tensor 'conv.weight' holds what is no finite number"),
        ("bn.running_mean", torch.nan, "scores .* are not finite; tensor 'bn.running_mean' holds what is no finite"),
        ("bn.running_var", -3.0, "scores .* are not finite; 'bn.running_var' is negative in places, as no variance is"),
    ],
)
def test_a_network_that_could_not_answer_is_refused_by_the_tensor(name, value, said, tmp_path):
    trained = drawn(odd.Plain).state_dict()
    trained[name].view(-1)[-1] = value
    save_file(trained, tmp_path / "w.safetensors")

    with pytest.raises(ValueError, match=said) as error:
        load("tests.models.odd:Plain", weights=tmp_path / "w.safetensors", custom=EIGHT)

    assert "\n" not in str(error.value)


def test_scores_that_are_not_finite_though_all_tensors_are_get_a_word():
    class Masked(odd.Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.tensor([0, 0, 0, -torch.inf])

    with pytest.raises(ValueError, match="where a class is ruled out, give it a large negative number"):
        TorchBackbone(drawn(Masked), SHAPE)


def test_a_buffer_that_is_not_finite_is_no_harm_where_scores_are_finite():
    network = drawn(odd.Plain)
    network.register_buffer("mask", torch.tensor([0, -torch.inf]))

    assert TorchBackbone(network, SHAPE).forward(images()).logits.isfinite().all()
