"""ViDA: what only it promises, and the reference's outputs."""

import json
from collections import Counter

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from adapters.base import group
from adapters.low_rank import draw, fold, layers
from adapters.vida import Vida
from models import Reference, TorchBackbone
from tests.networks import GOLDENS, golden
from tests.states import bits

# The reference's names of the parts of an adapted Linear layer, in its order.
PARTS = {
    "linear_vida.weight": "weight",
    "linear_vida.bias": "bias",
    "vida_down.weight": "low_down",
    "vida_up.weight": "low_up",
    "vida_down2.weight": "high_down",
    "vida_up2.weight": "high_up",
}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96)
        self.proj = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) * 8**-0.5).softmax(3)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(32)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """The network that ViDA's reference outputs were made with, without its adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.zeros(1, 16, 32))
        self.pe = nn.Conv2d(3, 32, 8, 8)
        self.blocks = nn.Sequential(Layer(), Layer())
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pe(x).flatten(2).transpose(1, 2) + self.pos
        return self.head(self.norm(self.blocks(x)).mean(1))


def ours(name: str) -> str:
    """Return the name here of a parameter of the reference's network."""
    for theirs, part in PARTS.items():
        name = name.removesuffix(theirs) + part if name.endswith(theirs) else name
    return name


def deterministic_view(images: Tensor, index: int, generator: torch.Generator) -> Tensor:
    """The augmentation that the reference outputs were made with."""
    images = images.flip(3) if index % 2 else images
    return (images * (0.8 + 0.04 * index)).clamp(0, 1)


@pytest.fixture(scope="module")
def outputs() -> dict[str, Tensor]:
    return golden("vida")


@pytest.fixture(scope="module")
def vit(outputs) -> TorchBackbone:
    network = ViT()
    weights = {ours(name): tensor for name, tensor in group(outputs, "init").items()}
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return TorchBackbone(network, (3, 32, 32), name="vit")


@pytest.fixture(scope="module")
def reference(outputs, vit) -> Reference:
    """A bundle with the adapters that the reference outputs began with."""
    names = {ours(name): tensor for name, tensor in group(outputs, "init").items()}
    return Reference(vit.spec.digest, {f"vida/{n}": t for n, t in names.items() if n.endswith(("_up", "_down"))})


def named_parameters() -> list[str]:
    """Return the parameters of the reference's network in its order, under their names here."""
    names = []
    for name, _ in ViT().named_parameters():
        names.append(name)
        if ".attn." in name and name.endswith(".bias"):
            names += [f"{name.removesuffix('bias')}{part}" for part in list(PARTS.values())[2:]]
    return names


def test_it_equals_the_reference(vit, outputs, reference):
    with safe_open(GOLDENS / "vida.safetensors", "pt") as file:
        expected_scales = json.loads(file.metadata()["about"])["scales"]
    order, seen = named_parameters(), Counter()

    def mask(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
        number = seen[name] * len(order) + order.index(name)
        seen[name] += 1
        return outputs[f"masks/{number:04d}"]

    adapter = Vida(
        lr=1e-4,
        lr_adapters=1e-5,
        threshold=0.05,
        scope="all",
        targets=("*.attn.*",),
        reference_compat=True,
        stats="batch",
        augment=deterministic_view,
        restore_mask=mask,
    )
    state = adapter.init(vit, reference)

    for x, logits, (low, high) in zip(outputs["x"], outputs["logits"], expected_scales, strict=True):
        step = adapter.adapt(vit, state, x)
        state = step.state
        print((step.output.logits - logits).abs().max(), state["scale/low"] - low, state["scale/high"] - high)

    for kind, theirs in (("theta", "student"), ("teacher", "teacher")):
        for name, tensor in group(outputs, theirs).items():
            d = (state[f"{kind}/{ours(name)}"] - tensor).abs()
            print(kind, name, d.max(), (d > 1e-6).sum(), d.numel())
