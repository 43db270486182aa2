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


def test_a_head_that_does_not_make_the_logits_is_taken_and_said():
    network = classifier(nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 5))
    heads = [path for path, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    first, last = (TorchBackbone(network, SHAPE, head=path).findings.remarks["head"] for path in heads)

    assert first.endswith("Linear of 192 features; what it makes is not what the network returns")
    assert last.endswith("Linear of 7 features")


def test_a_head_that_is_no_layer_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="head 'nothing' is no layer of it; it has fc"):
        TorchBackbone(small(), SHAPE, head="nothing")


def test_a_head_that_is_not_given_one_row_for_each_image_is_refused():
    network = nn.Sequential(nn.Flatten(2), nn.Linear(64, 5), nn.Flatten(), nn.Linear(15, 5))

    with pytest.raises(ValueError, match="head '1' is not given one row of features for each image"):
        TorchBackbone(network, SHAPE, head="1")


def test_a_last_linear_layer_that_does_not_make_the_logits_is_not_the_head():
    network = classifier(nn.Linear(192, 7), nn.Unflatten(1, (7, 1, 1)), nn.Conv2d(7, 5, 1), nn.Flatten())

    backbone = TorchBackbone(network, SHAPE)

    assert (backbone.spec.features, backbone.spec.classes) == (7, 5)
    assert "Conv2d" in backbone.findings.remarks["head"]


def test_a_last_linear_layer_that_is_not_reached_is_not_the_head():
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 5)
            self.aux = nn.Linear(192, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1)) + (self.aux(x.flatten(1)) if self.training else 0)

    assert TorchBackbone(Auxiliary(), SHAPE).findings.remarks["head"].startswith("fc, ")


def test_logits_of_every_token_are_refused():
    with pytest.raises(ValueError, match=r"returns \(3, 3, 5\) for 3 images, expected logits of shape \(3, classes\)"):
        TorchBackbone(nn.Sequential(nn.Flatten(2), nn.Linear(64, 5)), SHAPE)


def test_a_network_that_returns_no_tensor_is_refused():
    class Says(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "cat"

    with pytest.raises(ValueError, match="network 'says' cannot be served: it returns a str for 3 images"):
        TorchBackbone(Says(), SHAPE)


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
