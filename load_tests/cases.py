"""What is measured: networks, and every registered adapter in the modes that differ in cost."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from tta_server import adapters
from tta_server.adapters import Adapter, State
from tta_server.models import Reference, TorchBackbone, glyphs
from tta_server.models.weights import load_weights, read_weights

NETWORKS = ("glyphs", "resnet50", "vit_b_16")
MEMORY_ROWS = 1000

Change = Callable[[Adapter], Adapter]

_CPU_BATCHES = {"glyphs": (1, 16, 64), "resnet50": (1, 4)}
_SLOW_BATCHES = (1,)
_CUDA_BATCHES = (1, 16, 64)


@dataclass(frozen=True)
class Network:
    """One network, plain and wrapped.

    Attributes:
        name: What to call it.
        plain: The module as its authors wrote it, in evaluation mode.
        backbone: The same weights as adapters see them.
        batches: Batch sizes to measure it at.
    """

    name: str
    plain: nn.Module
    backbone: TorchBackbone
    batches: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One adapter in one mode.

    Attributes:
        label: What to call it.
        adapter: The adapter.
        state: A fresh state of it; a value, so that every round can start from it.
    """

    label: str
    adapter: Adapter
    state: State


def network(name: str, device: torch.device, batches: Sequence[int] = ()) -> Network:
    """Build a network on `device`; only "glyphs" has trained weights, and times do not depend on them.

    Args:
        name: "glyphs" or a torchvision classifier that takes 224 x 224 images.
        device: Where to run it.
        batches: Batch sizes to measure it at; a choice that fits the device when empty.
    """
    torch.manual_seed(0)
    embedded = name == "glyphs"
    if embedded:
        module = glyphs.build()
        load_weights(module, read_weights(glyphs.WEIGHTS), str(glyphs.WEIGHTS))
    else:
        module = torchvision.models.get_model(name, weights=None)
        _fill_zeros(module)
    plain = module.to(device).eval().requires_grad_(False)
    backbone = TorchBackbone(plain, (3, 32, 32) if embedded else (3, 224, 224), name=name, device=device)
    usual = _CUDA_BATCHES if device.type == "cuda" else _CPU_BATCHES.get(name, _SLOW_BATCHES)
    return Network(name, plain, backbone, tuple(batches) or usual)


def cases(backbone: TorchBackbone, change: Change = lambda adapter: adapter) -> tuple[list[Case], list[str]]:
    """Return every registered adapter that `backbone` can serve, each changed, and why the others are left out."""
    reference = _reference(backbone)
    has = backbone.spec.capabilities | {f"reference.{part}" for part in reference.parts}
    fitting: list[Case] = []
    left_out = []
    for name in adapters.names():
        missing = sorted(adapters.create(name).requires - has)
        if missing:
            left_out.append(f"`{name}` needs {', '.join(missing)}, which `{backbone.spec.name}` lacks")
            continue
        for label, adapter in _modes(name, backbone):
            changed = change(adapter)
            fitting.append(Case(label, changed, changed.init(backbone, reference)))
    return fitting, left_out


def _modes(name: str, backbone: TorchBackbone) -> list[tuple[str, Adapter]]:
    adapter = adapters.create(name)
    has_stats = "stats" in {field.name for field in dataclasses.fields(adapter)}  # type: ignore[arg-type]
    if not has_stats or "batchnorm" not in backbone.spec.capabilities:  # without BatchNorm the modes are the same
        return [(name, adapter)]
    return [(f"{name}, {stats}", adapters.create(name, stats=stats)) for stats in ("ema", "batch")]


def _reference(backbone: TorchBackbone) -> Reference:
    """Return a bundle of the shape that a real one has, with numbers that mean nothing."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(MEMORY_ROWS, backbone.spec.features, generator=generator)
    memory = {"memory/features": features, "memory/labels": torch.arange(MEMORY_ROWS) % backbone.spec.classes}
    fisher = {f"fisher/{name}": torch.ones_like(tensor) for name, tensor in backbone.norm_affine().items()}
    tensors = {name: tensor.detach().to(backbone.device) for name, tensor in (memory | fisher).items()}
    return Reference(backbone.spec.digest, tensors)


def _fill_zeros(module: nn.Module) -> None:
    # Some heads start at zero: then every gradient is zero, which is not what a trained network computes with.
    for parameter in module.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def without_chance(adapter: Adapter) -> Adapter:
    """Return an adapter that draws nothing, for two devices never draw the same.

    ViDA's student begins as its teacher: its first gradient is rounding, of which Adam would make steps of full size.
    """
    fields = {field.name for field in dataclasses.fields(adapter)}  # type: ignore[arg-type]
    instead = {
        "augment": lambda images, _index, _generator: images.flip(3),
        "restore_mask": lambda _name, like, _generator: torch.ones_like(like),
        **({"optimizer": "sgd"} if adapter.name == "vida" else {}),
    }
    return dataclasses.replace(adapter, **{name: instead[name] for name in fields & instead.keys()})  # type: ignore[type-var]
