"""What an adapter may ask of a frozen network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from tta_server.models.arrange import MemoryFormat

Tensors = Mapping[str, Tensor]
"""A flat mapping of state-dict names to tensors; a value, never written in place."""

EMPTY: Tensors = MappingProxyType({})


def size_bytes(tensors: Tensors) -> int:
    """Return how much memory the elements of `tensors` take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


Statistics = Literal["stored", "batch", "median"] | float
"""Which mean and variance a BatchNorm layer uses: its stored ones (or an override of them), the batch's own, medians
over the batch's images in their place, or a mix of stored and own, given as the share of the batch in [0, 1]."""


def random_images(backbone: "Backbone", rows: int) -> Tensor:
    """Return images (rows, C, H, W) of random levels to try a network with, on its device; the same each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(rows, *backbone.spec.input_shape, generator=generator).to(backbone.device)


def distance(found: "Output", expected: "Output") -> float:
    """Return how far logits or features are apart, of the largest that is expected; 0 where both are alike."""
    pairs = zip(found[:2], expected[:2], strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=torch.finfo(b.dtype).tiny)) for a, b in pairs)


class TooFewValuesError(ValueError):
    """A BatchNorm layer would take the statistics of a single value per channel."""


class Output(NamedTuple):
    """What a network says of a batch of N images.

    Attributes:
        logits: Unnormalised scores (N, K); a method that works with probabilities gives their logarithms. Their softmax
            is the answer, whoever made them.
        features: Input of the classification head (N, D).
        moments: Only after a forward that took the batch's statistics, alone or mixed: per BatchNorm layer the batch's
            `<layer>.running_mean` and `<layer>.running_var` (unbiased), each (C,) and without gradient.
    """

    logits: Tensor
    features: Tensor
    moments: Tensors = EMPTY


@dataclass(frozen=True)
class Spec:
    """Facts about a frozen network that never change.

    Attributes:
        name: What people call the model.
        digest: sha256 of the weights, in hex; names, shapes and types count.
        input_shape: (C, H, W) of one image.
        classes: Number of classes K.
        features: Width D of the features.
        capabilities: What adapters may require: "grad", "batchnorm", "norm_affine".
        memory_format: In which order images and weights lie; steps round otherwise in another.
    """

    name: str
    digest: str
    input_shape: tuple[int, int, int]
    classes: int
    features: int
    capabilities: frozenset[str]
    memory_format: MemoryFormat = "contiguous"


@dataclass(frozen=True)
class Findings:
    """What trials of a network showed, and so what may be done with it.

    Attributes:
        apart: Whether no row of a forward depends on another, so that requests may share one.
        stacks: Whether streams of different states may share one, and a step.
        repeats: Whether it answers the same images alike each time.
        remarks: What a person should know of it, by subject.
    """

    apart: bool = True
    stacks: bool = True
    repeats: bool = True
    remarks: Mapping[str, str] = field(default_factory=dict)


class Backbone(Protocol):
    """A frozen network, shared by every stream; images are floats in [0, 1], normalised inside."""

    @property
    def spec(self) -> Spec:
        """Facts about the network."""
        ...

    @property
    def findings(self) -> Findings:
        """What trials of the network showed; the first call may take some forwards."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights live and images are expected."""
        ...

    def forward(self, x: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network on `x` (N, C, H, W) with some of its tensors replaced for this call.

        Args:
            x: Images in [0, 1], float32, on `device`.
            overrides: State-dict names to the tensors used instead; shapes as in the network.
            statistics: Which mean and variance BatchNorm layers use.

        Returns:
            Logits, features and, unless `statistics` is "stored", the batch's moments.

        Raises:
            ValueError: If there is no image, images are not floats of the network's shape, or an override is not a
                tensor of this network. Whether images are in [0, 1] is not looked at: the host would wait for it.
            TooFewValuesError: If a layer should take the batch's statistics of one value per channel.
        """
        ...

    @property
    def norm_layers(self) -> tuple[str, ...]:
        """Paths of the normalisation layers, in the order of registration."""
        ...

    def styles(self, x: Tensor, layers: Sequence[str], answer: bool = True) -> tuple[Tensor, Output | None]:
        """Return the style of images as the frozen network sees them; see `models.style`.

        Args:
            x: Images (N, C, H, W) in [0, 1], float32, on `device`.
            layers: Some of `norm_layers`.
            answer: Whether the answer is wanted too; without it the forward ends at the deepest of the layers.

        Returns:
            Styles (N, D) float32, layer by layer in the order asked for, and what `forward(x)` returns, or None.

        Raises:
            ValueError: If a layer is none of these, or does not see each image once, as maps or tokens.
        """
        ...

    def norm_affine(self) -> Tensors:
        """Return scales and shifts of the normalisation layers."""
        ...

    def norm_stats(self) -> Tensors:
        """Return the source means and variances of the BatchNorm layers."""
        ...

    def weights(self) -> Tensors:
        """Return all parameters."""
        ...

    def twin(self) -> "Backbone":
        """Return the same network for another thread: both share their weights, and neither waits for the other.

        It may be this one, where that cannot be had: then both take turns.
        """
        ...

    def digest(self) -> str:
        """Compute the sha256 of the weights as they are now; differs from `spec.digest` only if they were damaged."""
        ...


def replaceable(backbone: Backbone) -> dict[str, Tensor]:
    """Return scales, shifts and statistics of the normalisation layers, with the source's values."""
    return {**backbone.norm_affine(), **backbone.norm_stats()}
