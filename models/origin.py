"""What is known of an architecture before its weights are read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tta_server.models.preprocess import Preprocess


@dataclass(frozen=True)
class Origin:
    """What is known of an architecture before its weights are read.

    Attributes:
        build: From a number of classes, None for the architecture's own, to a network with random weights.
        preprocess: From decoded images to its input.
        weights: File with its weights, if it comes with one.
        labels: Names of its classes, if they are known.
        reference: The bundle of those weights.
        ready: Makes the network with those weights; None if they are read like a user's own.
        head: Path of the layer that makes the logits, if it is known.
        caution: Why `preprocess` may not be what the network was trained with; empty if it is.
        form: How the network is built, where the weights may be of one that is built otherwise; empty if there is none.
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
