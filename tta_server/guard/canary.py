"""Canary: labelled source images, spoilt in several ways, that tell whether what a stream has learnt still reads.

A clean canary notices a collapse late, and a collapsing model is sure of itself; spoilt images notice it early. They
are answered with the statistics of each batch itself, so that the check is about the learnt parameters and not about
which of the ways the stream's stored statistics happen to suit.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tta_server.adapters import Adapter, State
from tta_server.models import Backbone, Reference
from tta_server.pulse import beat

_SEED = 0
_PARTS = frozenset({"canary"})


class CanaryReading(NamedTuple):
    """What the canary said.

    Attributes:
        accuracy: Of the state, over the whole bank.
        source: Of the source's parameters on the same images.
        error: One standard error of the difference, from the images on which only one of the two is right.
    """

    accuracy: float
    source: float
    error: float

    @property
    def drop(self) -> float:
        """By how much the state is worse; negative if it is better."""
        return self.source - self.accuracy


class CanaryImages:
    """The canary images of a bundle, spoilt when they are first asked for: one bank for all canaries of a network."""

    def __init__(self, reference: Reference, device: torch.device) -> None:
        """Take the images of a bundle.

        Args:
            reference: With the canary images.
            device: Where the bank is kept.

        Raises:
            ValueError: If the bundle has no canary.
        """
        self._images, labels = (reference.part("canary")[name] for name in ("images", "labels"))
        self._device = device
        self.labels = labels.to(device)

    @cached_property
    def ways(self) -> list[Tensor]:
        """The images (N, C, H, W) spoilt in each way, as bytes: at 224 pixels a bank of floats has 360 MB."""
        clean = self._images.cpu().float() / 255
        return [(255 * spoilt).round().to(self._device, torch.uint8) for spoilt in bank(clean).values()]


class Canary:
    """What the source's parameters say of the bank of spoilt images, and what others do."""

    def __init__(self, backbone: Backbone, adapter: Adapter, shown: CanaryImages, initial: State) -> None:
        """Prepare; the bank is answered when it is first needed, or each start would wait for it.

        Args:
            backbone: The frozen network.
            adapter: One that answers from a batch alone, see `Adapter.alone`.
            shown: The bank.
            initial: The state of a fresh stream.
        """
        self._backbone = backbone
        self._adapter = adapter
        self._shown = shown
        self._initial = initial

    def read(self, state: State) -> CanaryReading:
        """Compare what `state` makes of the bank with what the source's parameters make of it."""
        right = self._answers(state)
        drop = self._by_source.double() - right.double()
        accuracy, source = float(right.double().mean()), float(self._by_source.double().mean())
        return CanaryReading(accuracy, source, float(drop.square().sum().sqrt()) / len(drop))

    @cached_property
    def _by_source(self) -> Tensor:
        return self._answers(self._initial)

    @torch.no_grad()
    def _answers(self, state: State) -> Tensor:
        right = list[Tensor]()
        for images in self._shown.ways:
            beat()  # on a CPU each may take a large network many seconds
            answers = self._adapter.predict(self._backbone, state, images.float() / 255).logits.argmax(1)
            right.append(answers == self._shown.labels)
        return torch.cat(right)


def obstacle(adapter: Adapter, initial: State, reference: Reference | None) -> str:
    """Return why a canary cannot judge the streams of an adapter, or an empty string."""
    if reference is None or not reference.parts >= _PARTS:
        return "the model has no reference bundle with canary images"
    if not initial:
        return f"adapter '{adapter.name}' learns no parameters"
    try:
        adapter.alone()
    except ValueError as error:
        return str(error)
    return ""


def bank(images: Tensor) -> dict[str, Tensor]:
    """Return images in [0, 1] (N, C, H, W) spoilt in six ways, in [0, 1] too; the same for the same images."""
    generator = torch.Generator().manual_seed(_SEED)
    return {name: spoil(images, generator).clamp(0, 1) for name, spoil in _WAYS.items()}


def _noise(images: Tensor, generator: torch.Generator) -> Tensor:
    return images + 0.2 * torch.randn(images.shape, generator=generator)


def _specks(images: Tensor, generator: torch.Generator) -> Tensor:
    hit, white = (torch.rand(images.shape, generator=generator) < share for share in (0.1, 0.5))
    return torch.where(hit, white.to(images.dtype), images)


def _blur(images: Tensor, _generator: torch.Generator) -> Tensor:
    side = max(1, math.ceil(min(images.shape[2:]) / 16))
    padded = functional.pad(images, (side,) * 4, mode="replicate")
    return functional.avg_pool2d(padded, 2 * side + 1, 1)


def _pale(images: Tensor, _generator: torch.Generator) -> Tensor:
    return torch.lerp(images.mean((1, 2, 3), keepdim=True).expand_as(images), images, 0.3)


def _bright(images: Tensor, _generator: torch.Generator) -> Tensor:
    return images + 0.3


def _blocks(images: Tensor, _generator: torch.Generator) -> Tensor:
    height, width = images.shape[2:]
    small = functional.adaptive_avg_pool2d(images, (max(1, height // 2), max(1, width // 2)))
    return functional.interpolate(small, size=(height, width))


_WAYS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "noise": _noise,
    "specks": _specks,
    "blur": _blur,
    "contrast": _pale,
    "brightness": _bright,
    "pixelate": _blocks,
}
