"""Wide residual networks for 32x32 images, with the tensor names of RobustBench's checkpoints.

Source: Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146; the names are those of RobustBench's `WideResNet`, whose
CIFAR-10 "Standard" checkpoint is a WRN-28-10 for images in [0, 1] without normalisation.
"""

import torch
from torch import Tensor, nn

CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class WideResNet(nn.Module):
    """Classify images (N, 3, H, W); the input of `fc` is the pooled feature vector."""

    def __init__(self, depth: int = 28, widen: int = 10, classes: int = 10) -> None:
        """Draw the initial weights from torch's global generator.

        Args:
            depth: Convolutions on the longest path, 6 n + 4.
            widen: How many times 16, 32 and 64 channels the three stages have.
            classes: Number of logits.

        Raises:
            ValueError: If there is no network of that depth.
        """
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4 with n >= 1, got {depth}")
        blocks = (depth - 4) // 6
        self.conv1 = _convolution(3, 16, 3)
        self.block1 = _Stage(16, 16 * widen, blocks, stride=1)
        self.block2 = _Stage(16 * widen, 32 * widen, blocks, stride=2)
        self.block3 = _Stage(32 * widen, 64 * widen, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        features = torch.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Add two convolutions, each after a normalisation, to the input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _convolution(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, 3)
        self.convShortcut = None if inputs == outputs else _convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        active = torch.relu(self.bn1(x))
        inner = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        # Where the width changes, the shortcut starts behind the normalisation.
        total: Tensor = inner + (x if self.convShortcut is None else self.convShortcut(active))
        return total


class _Stage(nn.Module):
    """Blocks of one width; the first may shrink the image."""

    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = _Block(inputs, outputs, stride)
        self.layer = nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(1, blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.layer(x)
        return y


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
