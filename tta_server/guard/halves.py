"""Whether images determine the statistics that are taken of them: asked of their halves, without labels.

Each half is answered twice by the frozen network: normalised by its own statistics, and by the other half's. Where the
two readings are alike, other images of the same kind would have said the same; where they differ as if by chance, the
statistics are those of these few images and of nothing else. What counts are the images that either reading takes from
the frozen model's answer: the others lose nothing, however many they are. Agreement is counted beyond chance, for a
network that says one class of everything agrees with itself.

Source: Cohen, Educational and Psychological Measurement 20, 1960, for agreement beyond chance; Landis and Koch,
Biometrics 33, 1977, for how much of it is substantial.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from tta_server.models import EMPTY, Backbone, TooFewValuesError

_LEAST = 0.6  # agreement beyond chance from which on it is substantial
_FEWEST_ROWS = 16  # of fewer, agreement is chance
_MOST_ROWS = 32  # that are looked at: then no more is run than three forwards over a usual window


def determined(backbone: Backbone, x: Tensor, frozen: Tensor) -> bool:
    """Say whether the statistics of images suit more than themselves; waits for the device.

    They are halved in three ways, for one may be lucky. Of fewer than 16 images nothing is known.

    Args:
        backbone: What runs.
        x: The images (N, C, H, W).
        frozen: The classes (N,) that the frozen model gives them.
    """
    size = min(len(x), _MOST_ROWS) // 2
    if size < _FEWEST_ROWS // 2:
        return False
    x, frozen = torch.cat([x[:size], x[-size:]]), torch.cat([frozen[:size], frozen[-size:]])
    readings = []
    for half in _halvings(2 * size):
        rows = torch.cat([half.nonzero()[:, 0], (~half).nonzero()[:, 0]]).to(x.device)
        try:
            own, crossed = _read(backbone, *torch.split(x[rows], int(half.sum())))
        except TooFewValuesError:
            return False
        readings.append(torch.stack([own, crossed, frozen[rows]]))
    own, crossed, usual = torch.cat(readings, 1).cpu()
    moved = (own != usual) | (crossed != usual)
    return agreement(own[moved], crossed[moved]) >= _LEAST


def agreement(one: Tensor, other: Tensor) -> float:
    """Return how far two readings of the same images, classes (N,), agree beyond chance: 1 wholly, 0 no more than that.

    It is 0 too where one class is all that both say, and where there are no images.
    """
    if not len(one):
        return 0.0
    classes = int(torch.stack([one, other]).max()) + 1
    shares = [said.bincount(minlength=classes).double() / len(said) for said in (one, other)]
    chance = float(shares[0] @ shares[1])
    agreed = float((one == other).double().mean())
    return (agreed - chance) / (1 - chance) if chance < 1 else 0.0


def _halvings(rows: int) -> Iterator[Tensor]:
    """Yield which of some images are in the first half (rows,): the earlier ones, every other one, every other pair."""
    place = torch.arange(rows)
    yield place < rows // 2
    yield place % 2 == 0
    yield place // 2 % 2 == 0


def _read(backbone: Backbone, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes (N,) of both halves' images by their own statistics, and by the other half's."""
    own = [backbone.forward(half, EMPTY, "batch") for half in (one, other)]
    crossed = [backbone.forward(half, by.moments) for half, by in zip((one, other), reversed(own), strict=True)]
    own_classes, crossed_classes = (
        torch.cat([output.logits for output in outputs]).argmax(1) for outputs in (own, crossed)
    )
    return own_classes, crossed_classes
