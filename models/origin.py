"""What is known of an architecture before its weights are read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tta_server.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

IMAGENET = Preprocess((224, 224), resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)
"""For a network of which nothing else is known: what most were trained with."""


@dataclass(frozen=True)
class Origin:
    """What is known of an architecture before its weights are read.

    Attributes:
        build: From a number of classes, None for the architecture's own, to a network with random weights.
        preprocess: From decoded images to its input.
        weights: File with its weights, if it comes with one.
        labels: Names of its classes, if they are known.
        reference: The bundle of those weights; None is one that lies beside them, if there is any.
        ready: Makes the network with those weights; None if they are read like a user's own.
        head: Path of the layer that makes the logits, if it is known.
        caution: Why `preprocess` may not be what the network was trained with; empty if it is.
        form: How the network is built, where the weights may be of one that is built otherwise; empty if there is none.
        beside: Other files that hold some of its weights.
    """

    build: Callable[[int | None], nn.Module]
    preprocess: Preprocess
    weights: Path | None = None
    labels: tuple[str, ...] = ()
    reference: Path | None = None
    ready: Callable[[], nn.Module] | None = None
    head: str = ""
    caution: str = ""
    form: str = ""
    beside: tuple[str, ...] = ()


def own_weights(path: Path) -> Callable[[int | None], nn.Module]:
    """Return the `build` of a file that is a network with its weights, which refuses to make another."""

    def build(_classes: int | None) -> nn.Module:
        raise ValueError(f"'{path}' holds its own weights and number of classes; give it neither")

    return build
