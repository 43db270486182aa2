"""Small networks for tests."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from tta_server.models import Backbone, Reference

GOLDENS = Path(__file__).parent / "goldens"


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.down = (
            None if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + (x if self.down is None else self.down(x)))


class ResNet(nn.Module):
    """The network that the reference outputs were made with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.l1, self.l2, self.l3 = Block(16, 16), Block(16, 32, 2), Block(32, 64, 2)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.l3(self.l2(self.l1(functional.relu(self.bn(self.conv(x))))))
        return self.fc(x.mean((2, 3)))


class LayerNormNet(nn.Module):
    """A network without BatchNorm: patches, LayerNorm, GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.group = nn.GroupNorm(4, 16)
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group(self.patches(x)).flatten(2).transpose(1, 2)
        return self.head((tokens + torch.tanh(self.mlp(self.norm(tokens)))).mean(1))


def golden(name: str) -> dict[str, Tensor]:
    """Return one file of reference outputs."""
    return load_file(GOLDENS / f"{name}.safetensors")


def reference_network() -> ResNet:
    """Return the network of the reference outputs, with its weights."""
    network = ResNet()
    weights = golden("base")
    network.load_state_dict({name[5:]: value for name, value in weights.items() if name.startswith("init/")})
    return network


def layer_norm_network() -> LayerNormNet:
    """Return a network whose weights are drawn with a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LayerNormNet()


def bundle(backbone: Backbone) -> Reference:
    """Return a reference bundle with what adapters ask for, drawn with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    affine = backbone.norm_affine()
    rows = torch.randn(40, backbone.spec.features, generator=generator)
    tensors = {f"fisher/{name}": torch.full_like(tensor, 1e-3) for name, tensor in affine.items()}
    kind = next(iter(affine.values()))
    tensors |= {"memory/features": rows.to(kind), "memory/labels": (torch.arange(40) % 10).to(backbone.device)}
    return Reference(backbone.spec.digest, tensors)
