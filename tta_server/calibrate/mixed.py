"""Source images in an order that mixes the classes, as parts are made of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_server.adapters.declared import Part

UNKNOWN = -1
"""In the place of a class."""


@dataclass(frozen=True)
class Mixed:
    """Source images in another order than they were read in, class by class; none is copied.

    Attributes:
        labels: Class of each, int64 (N,); `UNKNOWN` if there are no labels.
    """

    labels: NDArray[np.int64]
    _images: NDArray[np.uint8]
    _order: NDArray[np.int64]

    @classmethod
    def of(cls, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, rng: np.random.Generator) -> "Mixed":
        """Mix images (N, C, H, W) with their classes (N,), None if they are not known."""
        order = rng.permutation(len(images))
        return cls(np.full(len(images), UNKNOWN) if labels is None else labels[order], images, order)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> bool:
        """Whether the classes are known."""
        return bool((self.labels != UNKNOWN).all())

    def require_labels(self) -> None:
        """Refuse images without labels.

        Raises:
            ValueError: If they have none.
        """
        if not self.labelled:
            raise ValueError("needs labels")

    def levels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return some images (rows, C, H, W) as bytes."""
        return torch.from_numpy(self._images[self._order[rows]])

    def classes(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the classes of some images (rows,)."""
        return torch.from_numpy(self.labels[rows])

    def pixels(self, rows: NDArray[np.int64], device: torch.device) -> Tensor:
        """Return some images (rows, C, H, W) as floats in [0, 1] on `device`."""
        return self.levels(rows).to(device).float() / 255


@dataclass
class Batches:
    """What an adapter is given of the source images; it says how far it has come.

    Attributes:
        data: All of them.
        free: Rows of those that are no canary.
        seeds: Whoever shuffles draws the next.
        seed: Of what is drawn beside them.
        device: Where the network is.
        told: Called with how much is done and how much there is.
    """

    data: Mixed
    free: NDArray[np.int64]
    seeds: np.random.SeedSequence
    seed: int
    device: torch.device
    told: Callable[[int, int], None] = lambda _done, _total: None

    def check(self, part: Part) -> None:
        """Refuse to make a part of images that it cannot be made of.

        Raises:
            ValueError: If there are too few, or they have no labels.
        """
        if part.labels:
            self.data.require_labels()
        found, which = (len(self.free), " beside the canary's") if part.labels else (len(self.data), "")
        if found < part.images:
            raise ValueError(f"needs at least {part.images} images{which}, got {found}")

    def in_order(self, size: int, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give at most `most` images, none twice; see `SourceImages`."""
        total = min(len(self.data), most) // size
        return self._batches(np.arange(total * size).reshape(total, size))

    def shuffled(self, size: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give so many batches without the canary's images; see `SourceImages`.

        Raises:
            ValueError: If all images are the canary's.
        """
        if not len(self.free):
            raise ValueError("needs images beside the canary's, got none")
        rng = np.random.default_rng(*self.seeds.spawn(1))
        passes = -(-batches * size // len(self.free))
        rows = np.concatenate([rng.permutation(self.free) for _ in range(passes)])[: batches * size]
        return self._batches(rows.reshape(batches, size))

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        for done, some in enumerate(rows):
            yield self.data.pixels(some, self.device), self.data.classes(some).to(self.device)
            self.told(done + 1, len(rows))
