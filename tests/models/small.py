"""A small network of its own for the tests of the backbone, and images for it."""

import torch
from torch import Tensor, nn

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
