"""Networks that have a layer under two names, or one tensor in two layers, are answered and learn like any other."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tta_server.adapters import base, create
from tta_server.adapters.laws import check
from tta_server.models import TorchBackbone
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_export import graphs

SHAPE = 3, 8, 8


class Twice(nn.Module):
    """A small network, parts of which are kept under a second name."""

    norm: type[nn.Module] = nn.BatchNorm2d

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.bn = self.norm(4) if self.norm is nn.BatchNorm2d else nn.GroupNorm(2, 4)
        self.fc = nn.Linear(4, 5)
        self.again()

    def again(self) -> None:
        """Keep nothing twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn(self.stem(x)).relu().mean((2, 3)))


class Head(Twice):
    """`self.head = self.net.fc`."""

    def again(self) -> None:
        self.head = self.fc


class Layers(Twice):
    """Everything is in a list, too."""

    def again(self) -> None:
        self.layers = nn.ModuleList([self.stem, self.bn, self.fc])


class Groups(Layers):
    """The same without statistics."""

    norm = nn.GroupNorm


class Coupled(Layers):
    """The rows of a batch are not apart."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean((0, 2, 3), keepdim=True))


class Shared(Twice):
    """Another layer has the same parameters."""

    def again(self) -> None:
        self.other = nn.Linear(4, 5)
        self.other.weight = self.fc.weight

    def forward(self, x: Tensor) -> Tensor:
        features = self.bn(self.stem(x)).relu().mean((2, 3))
        return self.fc(features) + self.other(features.flip(1))


def drawn(kind: type[Twice]) -> Twice:
    torch.manual_seed(0)
    network = kind()
    if isinstance(network.bn, nn.BatchNorm2d):
        network.bn.running_mean.normal_()
        network.bn.running_var.uniform_(0.5, 2.0)
    return network.eval()


class Written(Twice):
    """One layer writes a buffer, and another reads it."""

    def again(self) -> None:
        self.register_buffer("scale", torch.ones(4))
        self.fc.register_buffer("scale", self.scale)
        self.layers = nn.ModuleList([self.fc])

    def forward(self, x: Tensor) -> Tensor:
        features = self.bn(self.stem(x)).relu().mean((2, 3))
        self.scale.copy_(features.amax(0))
        return self.fc(features / self.fc.scale)


class Normed(Shared):
    """The weight that two layers share is normalised in place, and a third name leads to it."""

    def again(self) -> None:
        super().again()
        self.layers = nn.ModuleList([self.fc, self.other])

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.fc.weight.div_(self.fc.weight.norm(dim=1, keepdim=True))
        return super().forward(x)


class Kept(Twice):
    """Its norm is kept, and not run."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(x).relu().mean((2, 3)))


WRITERS = [Written, Normed]
NETWORKS = [Head, Layers, Groups, Coupled, Shared]


@pytest.fixture(params=NETWORKS, ids=lambda kind: kind.__name__)
def kind(request) -> type[Twice]:
    return request.param


@pytest.fixture
def x() -> Tensor:
    return torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_it_answers_as_the_network_does(kind, x):
    found = TorchBackbone(drawn(kind), SHAPE).forward(x).logits

    torch.testing.assert_close(found, drawn(kind)(x).detach(), rtol=0, atol=1e-6)


def test_whatever_is_replaced_leaves_nothing_behind(kind, x):
    backbone = TorchBackbone(drawn(kind), SHAPE)
    first, digest = backbone.forward(x).logits, backbone.digest()
    every = {name: 3 * tensor + 1 for name, tensor in backbone.weights().items()}

    replaced = backbone.forward(x, every).logits

    assert not torch.equal(replaced, first)
    assert torch.equal(backbone.forward(x).logits, first)
    assert (backbone.digest(), any(tensor.requires_grad for tensor in backbone.weights().values())) == (digest, False)


def names(network: nn.Module) -> list[str]:
    return list(network.state_dict())


@pytest.mark.parametrize("number", range(len(names(Layers()))))
def test_by_each_of_its_names_a_tensor_is_replaced_wherever_it_is(number, x):
    name = names(Layers())[number]
    if name.endswith("num_batches_tracked"):
        return
    network = drawn(Layers)
    other = network.state_dict()[name] * 2 + 0.5

    found = TorchBackbone(network, SHAPE).forward(x, {name: other}).logits

    network.state_dict()[name].copy_(other)
    torch.testing.assert_close(found, network(x).detach(), rtol=0, atol=1e-5)


def test_a_tensor_that_two_layers_share_is_replaced_in_both(x):
    network = drawn(Shared)
    backbone = TorchBackbone(network, SHAPE)
    other = network.fc.weight.detach() * 2 + 0.5

    found = [backbone.forward(x, {name: other}).logits for name in ("fc.weight", "other.weight")]

    network.fc.weight.data.copy_(other)
    for each in found:
        torch.testing.assert_close(each, network(x).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", WRITERS, ids=lambda kind: kind.__name__)
def test_what_a_network_writes_is_read_by_each_of_its_names(kind, x):
    backbone = TorchBackbone(drawn(kind), SHAPE)

    for _ in range(2):
        torch.testing.assert_close(backbone.forward(x).logits, drawn(kind)(x).detach(), rtol=0, atol=1e-6)


def test_what_is_replaced_and_then_written_is_read_by_each_of_its_names(x):
    backbone = TorchBackbone(drawn(Normed), SHAPE)
    other = drawn(Normed).fc.weight.detach() * 2 + 0.5
    expected = drawn(Normed)
    expected.fc.weight.data.copy_(other)
    said = expected(x).detach()

    for name in ("fc.weight", "other.weight", "layers.0.weight", "layers.1.weight"):
        torch.testing.assert_close(backbone.forward(x, {name: other}).logits, said, rtol=0, atol=1e-5)
    torch.testing.assert_close(backbone.forward(x).logits, drawn(Normed)(x).detach(), rtol=0, atol=1e-6)


def test_nothing_is_said_to_be_written_that_is_not(kind):
    said = TorchBackbone(drawn(kind), SHAPE).findings.remarks

    assert not any("written" in remark for remark in said.values()), said


@pytest.mark.parametrize("adapter", ["bn", "tent", "cotta"])
def test_adapters_keep_their_laws_on_it(kind, adapter):
    if kind is Coupled or (adapter == "bn" and kind is Groups):  # a law is that rows are apart; there is no BatchNorm
        return
    check(create(adapter), TorchBackbone(drawn(kind), SHAPE))


def test_a_norm_that_is_not_run_is_nothing_to_learn_from():
    backbone = TorchBackbone(drawn(Kept), SHAPE)

    assert "batchnorm" not in backbone.spec.capabilities
    assert "batchnorm" in TorchBackbone(drawn(Layers), SHAPE).spec.capabilities
    with pytest.raises(ValueError, match="adapter 'bn' needs"):
        base.check(create("bn"), backbone)


@pytest.mark.parametrize("kind", [Head, Layers, Groups, Shared], ids=lambda kind: kind.__name__)
def test_onnx_runtime_answers_alike(kind: Callable[[], Twice], x: Tensor):
    backbone = TorchBackbone(drawn(kind), SHAPE)
    overrides = {name: tensor + 0.5 for name, tensor in backbone.norm_affine().items()}

    other = OnnxBackbone(backbone, graphs(backbone))

    for given in ({}, overrides):
        torch.testing.assert_close(other.forward(x, given).logits, backbone.forward(x, given).logits, rtol=0, atol=1e-5)
