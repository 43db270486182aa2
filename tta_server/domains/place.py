"""Where a domain lies among styles: a centre, a spread, and how well both are known. A value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tta_server.domains.space import KIN_IMAGES
from tta_server.drift.different import different

MEMORY_IMAGES = 256
"""A centre moves along with what comes as a mean over about so many."""

_UNLIKE = 0.5  # styles of unlike source images are 2 apart; those of one class hardly ever come so near


@dataclass(frozen=True, eq=False)
class Place:
    """Where a domain lies.

    Attributes:
        centre: Mean of its whitened styles (D,), float64.
        spread: Mean squared distance of its images from it over D, at least 1, the source's own: noisy or pale images
            scatter more.
        images: How many images both are known from.
    """

    centre: Tensor
    spread: float
    images: int

    @classmethod
    def source(cls, dimensions: int, images: int) -> "Place":
        """Return the source's place: the origin of the space."""
        return cls(torch.zeros(dimensions, dtype=torch.float64), 1.0, images)

    @classmethod
    def first(cls, styles: Tensor) -> "Place":
        """Return the place of a domain whose first images have these whitened styles (N, D), N >= 1."""
        return cls(styles.mean(0), max(1.0, spread(styles) or 1.0), len(styles))

    def distance(self, styles: Tensor) -> float:
        """Return how far the mean of styles (N, D) lies from here, over what chance explains.

        The squared distance of two means over D, divided by the spread times (1 / n + 1 / images + 1 / 16), where n is
        how many different pictures the N are of: below 1 if the images are drawn from here at random, and about 1 if
        they are all of one class or show one scene. That there are many of one class brings them no nearer, so the last
        term stays; see `space.KIN_IMAGES`. The spread is the images' own if they scatter less than the domain does: a
        wide domain does not take in what is narrow and lies beside it.
        """
        return distances([self], styles)[0]

    def each(self, styles: Tensor) -> Tensor:
        """Return the distance of each of N images on its own (N,)."""
        apart = (styles - self.centre).square().mean(1)
        return apart / self._usual_of_one

    def surprise(self, styles: Tensor) -> Tensor:
        """Return how unlikely each of N images is here (N,): which of several places it is of, the least one says.

        Images scatter around a centre as a Gaussian, alike in all directions of the whitened space: with s for
        spread times (1 + 1 / images), the density of an image is (2 pi s)^(-D/2) exp(-|x - centre|^2 / (2 s)). This is
        -2 / D times its logarithm, less log(2 pi): `each` + log(s). By `each` alone a wide place would be the nearest
        to everything, for what lies in its middle as well, where another is far more likely.
        """
        return self.each(styles) + math.log(self._usual_of_one)

    def seen(self, styles: Tensor) -> "Place":
        """Return the place after more images (N, D) of its domain."""
        known, images = min(self.images, MEMORY_IMAGES), len(styles)
        found = spread(styles)
        share = images / (known + images)
        return replace(
            self,
            centre=torch.lerp(self.centre, styles.mean(0), share),
            spread=self.spread if found is None else max(1.0, self.spread + share * (found - self.spread)),
            images=self.images + images,
        )

    def merged(self, other: "Place") -> "Place":
        """Return the place of two domains that have become alike."""
        share = other.images / (self.images + other.images)
        between = share * (1 - share) * float((other.centre - self.centre).square().mean())
        return Place(
            torch.lerp(self.centre, other.centre, share),
            self.spread + share * (other.spread - self.spread) + between,
            self.images + other.images,
        )

    def apart(self, other: "Place") -> float:
        """Return how far two domains are apart, over the spread of the wider one: below 1 hardly at all."""
        return float((self.centre - other.centre).square().mean()) / max(self.spread, other.spread)

    def between(self, other: "Place") -> float:
        """Return how far two domains are apart, over what chance explains in the narrower one; see `distance`."""
        return self._over_chance(other.centre.numpy(), other.images, min(self.spread, other.spread))

    @property
    def _usual_of_one(self) -> float:
        """Return the mean squared distance over D of another image from the centre as it is known."""
        return self.spread * (1 + 1 / self.images)

    def _usual(self, own: float | None) -> float:
        """Return what images that scatter by `own` are expected to scatter by: no more than the domain."""
        return self.spread if own is None else max(1.0, min(own, self.spread))

    def _over_chance(self, mean: npt.NDArray[Any], images: float, spread: float) -> float:
        apart = float(np.square(mean - self.centre.numpy()).sum()) / len(mean)
        return apart / (spread * (1 / images + 1 / self.images + 1 / KIN_IMAGES))


def distances(places: Sequence[Place], styles: Tensor) -> list[float]:
    """Return how far the mean of styles (N, D) lies from each place; see `Place.distance`."""
    values = styles.numpy()
    mean, pictures = _mean(values), different(values, _UNLIKE)
    own = _spread(values, mean)
    return [place._over_chance(mean, pictures, place._usual(own)) for place in places]


def spread(styles: Tensor) -> float | None:
    """Return the mean squared distance of styles (N, D) from their mean, over D; None of a single one."""
    values = styles.numpy()
    return _spread(values, _mean(values))


# Asked with every request: on arrays this small numpy takes a third of torch's time.
def _spread(values: npt.NDArray[Any], mean: npt.NDArray[Any]) -> float | None:
    if len(values) < 2:
        return None
    return float(np.square(values - mean).sum()) / ((len(values) - 1) * len(mean))


def _mean(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    mean: npt.NDArray[Any] = values.sum(0) / len(values)
    return mean
