"""Whether images determine the statistics that are taken of them: asked of their halves, without labels.

Each half is answered twice by the frozen network: normalised by its own statistics, and by the other half's. Where the
two answers are alike, other images of the same kind would have said the same; where they differ as if by chance, the
statistics are those of these few images and of nothing else. Agreement is counted beyond chance, for a network that
says one class of everything agrees with itself.

Source: Cohen, Educational and Psychological Measurement 20, 1960, for agreement beyond chance; Landis and Koch,
Biometrics 33, 1977, for how much of it is substantial.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tta_server.models import EMPTY, Backbone, Output, TooFewValuesError

_LEAST = 0.6  # agreement beyond chance from which on it is substantial
_FEWEST_ROWS = 16  # in both halves: of fewer, agreement is chance
_MOST_ROWS = 32  # that are looked at: then no more is run than one forward over a usual window


def determined(backbone: Backbone, x: Tensor) -> bool:
    """Say whether the statistics of images `x` (N, C, H, W) suit more than themselves; waits for the device.

    Those that arrived first are compared with those that arrived last. Of fewer than 16 images nothing is known.
    """
    size = min(len(x), _MOST_ROWS) // 2
    if size < _FEWEST_ROWS // 2:
        return False
    halves = x[:size], x[-size:]
    try:
        own = [backbone.forward(half, EMPTY, "batch") for half in halves]
    except TooFewValuesError:
        return False
    crossed = [backbone.forward(half, other.moments) for half, other in zip(halves, reversed(own), strict=True)]
    return agreement(_classes(own), _classes(crossed)) >= _LEAST


def agreement(one: Tensor, other: Tensor) -> float:
    """Return how far two readings of the same images, classes (N,), agree beyond chance: 1 wholly, 0 no more than that.

    It is 0 too where one class is all that both say.
    """
    classes = int(torch.stack([one, other]).max()) + 1
    shares = [said.bincount(minlength=classes).double() / len(said) for said in (one, other)]
    chance = float(shares[0] @ shares[1])
    agreed = float((one == other).double().mean())
    return (agreed - chance) / (1 - chance) if chance < 1 else 0.0


def _classes(outputs: Sequence[Output]) -> Tensor:
    return torch.cat([output.logits for output in outputs]).argmax(1).cpu()
