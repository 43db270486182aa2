"""The default network: a small residual network for 32x32 images.

Source: He et al., CVPR 2016, arXiv:1512.03385, section 4.2 (the CIFAR variant).
Differs: one block a stage, and a projection on the shortcut wherever the shape changes.
"""

import torch
from torch import Tensor, nn


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    # No bias: the normalisation that follows would remove it.
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """Add two normalised 3x3 convolutions to the input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))


class GlyphNet(nn.Module):
    """Classify normalised images; the input of `fc` is the pooled feature vector."""

    def __init__(self, classes: int, width: int = 24) -> None:
        """Draw the initial weights from torch's global generator.

        Args:
            classes: Number of logits.
            width: Channels of the first stage; each of the other two doubles them.
        """
        super().__init__()
        self.conv = _convolution(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.stages = nn.Sequential(
            Block(width, width, stride=1),
            Block(width, 2 * width, stride=2),
            Block(2 * width, 4 * width, stride=2),
        )
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) for images (N, 3, H, W) normalised by the caller."""
        features = self.stages(torch.relu(self.bn(self.conv(x)))).mean(dim=(2, 3))
        logits: Tensor = self.fc(features)
        return logits
