"""Where the features end and the logits begin."""

import pytest
from torch import Tensor, nn
from torch.testing import assert_close

from tests.models.small import SHAPE, classifier, images, small
from tta_server.models import TorchBackbone


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
