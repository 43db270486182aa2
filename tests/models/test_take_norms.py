"""A BatchNorm that is more than one, or is read as more, stays: whatever a network is, it answers as it did."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.testing import assert_close

from tta_server.models import TorchBackbone

SHAPE = (3, 9, 9)


class Doubling(nn.BatchNorm2d):
    """More than a BatchNorm on wide maps alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if x.shape[-1] > 2 else 1)


class Calling(nn.BatchNorm2d):
    """More than its forward."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) + 1


class Counting(nn.Module):
    """Reads what only a BatchNorm has."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.body[1].num_batches_tracked


class Listening(nn.Module):
    """Uses what a layer made beside what comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = body(), nn.Linear(12, 5)
        self.heard: dict[str, Tensor] = {}
        self.body[1].register_forward_hook(self._hear)

    def _hear(self, _layer: nn.Module, _given: object, made: Tensor) -> None:
        self.heard["norm"] = made

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.body(x), self.heard["norm"].mean((2, 3))], 1))


def body(norm: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> nn.Sequential:
    layers = nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    layers[1].running_mean.uniform_(-0.2, 0.2)
    layers[1].running_var.uniform_(0.3, 2)
    return nn.Sequential(*layers)


def with_hook() -> nn.Module:
    network = body()
    network[1].register_forward_hook(lambda _layer, _given, made: leaky_relu(made, 0.3) - 0.5)
    return network


def with_pre_hook() -> nn.Module:
    network = body()
    network[1].register_forward_pre_hook(lambda _layer, given: (2 * given[0] + 1,))
    return network


def of(norm: type[nn.BatchNorm2d]):
    return lambda: body(norm)


MORE = [with_hook, with_pre_hook, Listening, Counting, of(Doubling), of(Calling)]


@pytest.mark.parametrize("make", MORE)
def test_a_batch_norm_that_is_more_than_one_stays_as_it_is(make):
    network, x = make().eval(), torch.rand(5, *SHAPE)
    before = [type(layer) for layer in network.modules()]

    backbone = TorchBackbone(network, SHAPE)

    with torch.no_grad():
        assert_close(backbone.forward(x).logits, network(x))
        assert_close(backbone.forward(x[:1]).logits, network(x[:1]))
    assert "batchnorm" not in backbone.spec.capabilities
    assert "keeps its statistics" in backbone.findings.remarks["fixed norms"]
    assert [type(layer) for layer in network.modules()] == before


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_every_other_is_taken_also_in_a_network_that_answers_differently_each_time(drop: float):
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body()

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(self.body(x), drop, training=True)

    backbone = TorchBackbone(Dropping(), SHAPE)

    assert "batchnorm" in backbone.spec.capabilities
    assert "fixed norms" not in backbone.findings.remarks


def test_a_network_is_tried_without_a_trace():
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.body(x) + self.calls

    network, x = Counter().eval(), torch.rand(2, *SHAPE)
    torch.manual_seed(1)
    drawn = torch.rand(3)
    torch.manual_seed(1)

    backbone = TorchBackbone(network, SHAPE)

    assert torch.equal(torch.rand(3), drawn)
    with torch.no_grad():
        assert_close(backbone.forward(x).logits, network(x))
