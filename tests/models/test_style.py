import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from torchvision.models import ConvNeXt, ResNet, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock

from tests.networks import layer_norm_network
from tta_server.models import TorchBackbone
from tta_server.models.style import style


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def some(backbone):
    return backbone.norm_layers[1:4:2]


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 4), c=st.integers(1, 5), side=st.integers(2, 6), seed=st.integers(0, 99))
def test_maps_and_tokens_of_the_same_values_have_the_same_style(n, c, side, seed):
    x = torch.randn(n, c, side, side + 1, generator=torch.Generator().manual_seed(seed))
    tokens = x.flatten(2).movedim(1, 2)

    found = style(x, c)

    values = x.double().flatten(2)
    assert_close(found[:, :c].double(), values.mean(2), atol=1e-5, rtol=1e-4)
    assert_close(found[:, c:].double(), (values.std(2, correction=0) + 1e-5).log(), atol=1e-4, rtol=1e-4)
    if tokens.shape[1] != c:
        assert_close(style(tokens, c), found)


@pytest.mark.parametrize("shape", [(4, 7), (4, 6, 2, 2), (7,)])
def test_what_has_no_channels_or_no_extent_has_no_style(shape):
    with pytest.raises(ValueError, match="style needs maps or tokens of 7 channels"):
        style(torch.zeros(shape), 7)


def test_the_style_of_an_image_does_not_depend_on_its_neighbours(backbone, images):
    together, _ = backbone.styles(images, some(backbone))

    alone = torch.cat([backbone.styles(image[None], some(backbone))[0] for image in images])
    assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_the_answer_beside_the_style_is_that_of_a_forward_bit_for_bit(backbone, images):
    _, output = backbone.styles(images, some(backbone))

    expected = backbone.forward(images)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.features, expected.features)


def test_without_an_answer_the_style_is_the_same_and_the_rest_of_the_network_is_not_run(images):
    deep = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    backbone = TorchBackbone(nn.Sequential(deep, nn.Linear(4 * 28 * 28, 3)), (3, 32, 32))
    ran = []
    backbone._module[1].register_forward_pre_hook(lambda *_: ran.append(True))

    found, output = backbone.styles(images, ["0.1", "0.3"], answer=False)

    assert output is None
    assert not ran
    assert torch.equal(found, backbone.styles(images, ["0.1", "0.3"])[0])
    assert torch.equal(backbone.forward(images).logits, backbone.forward(images).logits)  # nothing is left behind


def test_layers_come_in_the_order_that_they_are_asked_for(backbone, images):
    first, second = some(backbone)

    found, _ = backbone.styles(images, [second, first])

    assert torch.equal(found, torch.cat([backbone.styles(images, [path])[0] for path in (second, first)], 1))


@pytest.mark.parametrize("layers", [[], ["no.such"], ["linear"]])
def test_layers_that_are_not_there_are_refused(backbone, images, layers):
    with pytest.raises(ValueError, match="style needs normalisation layers of backbone"):
        backbone.styles(images, layers)


def test_a_layer_that_sees_other_rows_than_the_images_has_no_style(images):
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 2)

        def forward(self, x):
            halves = torch.cat(x.split(16, 2))
            return self.head(self.norm(halves).mean((2, 3))[: len(x)])

    with pytest.raises(ValueError, match="layer 'norm' does not see each image once"):
        TorchBackbone(Patches(), (3, 32, 32)).styles(images, ["norm"])


# torchvision's, but narrow and shallow: what it names are of these kinds, and take seconds each to draw.
KINDS = {
    "resnet": lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4),
    "convnext": lambda: ConvNeXt([CNBlockConfig(8, 16, 3), CNBlockConfig(16, None, 3)], num_classes=4),
    "vision transformer": lambda: VisionTransformer(64, 16, 3, 2, 16, 32, num_classes=4),
    "swin": lambda: SwinTransformer([4, 4], 8, [2, 2], [1, 2], [4, 4], num_classes=4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_every_kind_have_a_style(kind):
    backbone = TorchBackbone(KINDS[kind](), (3, 64, 64))
    layers = backbone.norm_layers[2:6:3]

    found, _ = backbone.styles(torch.rand(2, 3, 64, 64), layers, answer=False)

    assert len(layers) == 2
    assert found.isfinite().all()
    assert found.shape[0] == 2
    assert not torch.equal(found[0], found[1])


def test_a_network_with_layer_norm_only_has_a_style(images):
    backbone = TorchBackbone(layer_norm_network(), (3, 32, 32))

    found, _ = backbone.styles(images, backbone.norm_layers[:1])

    assert found.shape[0] == len(images)
    assert found.isfinite().all()
