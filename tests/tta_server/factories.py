"""Networks that a configuration can name."""

import torch
from torch import Tensor, nn

from tests.networks import ResNet, layer_norm_network
from tests.tta_server.runtime.fakes import Tiny


class Fragile(Tiny):
    """Works on the images that it is tried with, but on no full batch."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 32:
            raise RuntimeError("out of memory, as it were")
        return super().forward(x)


class Plain(nn.Module):
    """A network without normalisation layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


def fragile() -> nn.Module:
    """Return a network that fails when it is warmed up."""
    torch.manual_seed(0)
    return Fragile()


def plain() -> nn.Module:
    """Return a network that 'tent' cannot serve."""
    return Plain()


def untrained() -> nn.Module:
    """Return a network that is served as it comes."""
    torch.manual_seed(0)
    return ResNet()


def layer_norm() -> nn.Module:
    """Return a network with LayerNorm only."""
    return layer_norm_network()
