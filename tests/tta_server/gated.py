"""A network that waits while a file is there, for servers in processes of their own."""

import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

SHAPE = (3, 8, 8)


class Gated(nn.Module):
    """Answers while no file `shut` is in the folder that GATE names; writes a file `entered` when it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)
        self._gate = Path(os.environ["GATE"])

    def forward(self, x: Tensor) -> Tensor:
        if (self._gate / "shut").exists():
            (self._gate / "entered").touch()
        while (self._gate / "shut").exists():
            time.sleep(0.005)
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def network() -> nn.Module:
    """Return the network with fixed weights."""
    torch.manual_seed(3)
    return Gated()
