"""What an adapter is tried on: a small network, a bundle and images, all drawn with a fixed seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tta_server.adapters.base import Adapter, State
from tta_server.models import Backbone, Reference, TorchBackbone

_SHAPE = (3, 16, 16)
_CLASSES, _ROWS, _BATCHES = 10, 16, 8
_IMAGES = 256  # of the source


@dataclass(frozen=True)
class Subject:
    """An adapter and what it is tried on.

    Attributes:
        adapter: The adapter.
        backbone: The network.
        reference: Its bundle.
        batches: At least 8 batches of images (8, N, C, H, W) in [0, 1].
        exact: The same in float64; None if that is not known.
    """

    adapter: Adapter
    backbone: Backbone
    reference: Reference
    batches: Tensor
    exact: "Subject | None" = None

    @classmethod
    def of(cls, adapter: Adapter, backbone: Backbone | None = None, reference: Reference | None = None) -> "Subject":
        """Return an adapter with images, and with a small network unless one is given."""
        network = None if backbone else small_network()
        chosen = backbone or TorchBackbone(small_network(), _SHAPE, name="small")
        batches = (
            images(_BATCHES * _ROWS, chosen.spec.input_shape)
            .view(_BATCHES, _ROWS, *chosen.spec.input_shape)
            .to(chosen.device)
        )
        exact = None
        if network is not None:
            double = TorchBackbone(network.double(), _SHAPE, name="small")
            exact = cls(adapter, double, bundle(adapter, double, reference), batches.double())
        return cls(adapter, chosen, bundle(adapter, chosen, reference), batches, exact)

    def begin(self) -> State:
        """Return a fresh state."""
        return self.adapter.init(self.backbone, self.reference)

    def learn(self, state: State, steps: int, start: int = 0) -> State:
        """Return the state after so many batches, from number `start` on."""
        for batch in self.batches[start : start + steps]:
            state = self.adapter.adapt(self.backbone, state, batch).state
        return state

    def logits(self, state: State, x: Tensor) -> Tensor:
        """Return what `state` answers."""
        return self.adapter.predict(self.backbone, state, x).logits


class Given:
    """Source images, drawn."""

    seed = 0

    def __init__(self, backbone: Backbone) -> None:
        """Draw them."""
        kind = next(iter(backbone.weights().values()))
        self._images = images(_IMAGES, backbone.spec.input_shape).to(kind)
        self._labels = (torch.arange(_IMAGES) % backbone.spec.classes).to(kind.device)

    def in_order(self, size: int, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give them in batches, once."""
        for start in range(0, min(most, _IMAGES) // size * size, size):
            yield self._images[start : start + size], self._labels[start : start + size]

    def shuffled(self, size: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give so many batches."""
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(batches):
            rows = torch.randperm(_IMAGES, generator=generator)[:size]
            yield self._images[rows], self._labels[rows]


def small_network() -> nn.Module:
    """Return a network with BatchNorm layers, in evaluation mode, that is sure of some images and not of others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(32, _CLASSES)
        network = nn.Sequential(
            nn.Conv2d(_SHAPE[0], 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            head,
        )
        with torch.no_grad():
            network(images(_IMAGES, _SHAPE))  # in training mode: its statistics become those of the images
            head.weight *= 8
    return network.eval()


def images(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Return images (count, C, H, W) in [0, 1], each of another tint and brightness."""
    generator = torch.Generator().manual_seed(0)
    tint = torch.rand(count, shape[0], 1, 1, generator=generator)
    return (tint + 0.25 * torch.randn(count, *shape, generator=generator)).clamp(0, 1)


def bundle(adapter: Adapter, backbone: Backbone, reference: Reference | None = None) -> Reference:
    """Return a reference bundle with drawn features to remember, what `reference` has, and the adapter's own part."""
    kind = next(iter(backbone.weights().values()))
    rows = torch.randn(4 * backbone.spec.classes, backbone.spec.features, generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(len(rows)) % backbone.spec.classes).to(kind.device)
    tensors = {"memory/features": rows.to(kind), "memory/labels": labels}
    tensors |= reference.tensors if reference else {}
    part = adapter.part
    if part and part.requires <= backbone.spec.capabilities and not any(n.startswith(f"{part.name}/") for n in tensors):
        tensors |= {f"{part.name}/{n}": tensor for n, tensor in adapter.prepare(backbone, Given(backbone)).items()}
    return Reference(backbone.spec.digest, tensors, reference.about if reference else {})
