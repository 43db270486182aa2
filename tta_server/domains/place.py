"""Where a domain lies among styles: a centre, a spread, and how well both are known. A value.

What is asked with every request is worked out on arrays: on ones this small numpy takes a third of torch's time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tta_server.domains.space import KIN_IMAGES
from tta_server.drift.different import different

MEMORY_IMAGES = 256
"""A centre moves along with what comes as a mean over about so many."""

_UNLIKE = 0.5  # styles of unlike source images are 2 apart; those of one class hardly ever come so near


Values = npt.NDArray[np.float64]
"""Numbers of images, a row each."""


@dataclass(frozen=True, eq=False)
class Group:
    """Images that are judged together; what they have in common is worked out once.

    Attributes:
        styles: Whitened, in order (N, D), N >= 1.
    """

    styles: Values

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.styles)

    def only(self, which: npt.NDArray[np.bool_]) -> "Group":
        """Return some of the images (N,)."""
        return self if which.all() else Group(self.styles[which])

    @cached_property
    def mean(self) -> Values:
        """Mean of their styles (D,)."""
        mean: Values = self.styles.sum(0) / len(self)
        return mean

    @cached_property
    def spread(self) -> float | None:
        """Mean squared distance from their mean, over D; None of a single one."""
        if len(self) < 2:
            return None
        return float(np.square(self.styles - self.mean).sum()) / ((len(self) - 1) * len(self.mean))

    @cached_property
    def products(self) -> Values:
        """Mean product of the numbers of each two, from their mean (N, N): how all of them lie to one another."""
        apart = self.styles - self.mean
        products: Values = apart @ apart.T / len(self.mean)
        return products

    @cached_property
    def pictures(self) -> float:
        """How many different pictures they are of."""
        return different(self.products, _UNLIKE) if len(self) > 1 else 1.0


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
        return cls(styles.mean(0), max(1.0, Group(styles.numpy()).spread or 1.0), len(styles))

    def distance(self, styles: Tensor) -> float:
        """Return how far the mean of styles (N, D) lies from here, over what chance explains; see `distances`."""
        return distances([self], Group(styles.numpy()))[0]

    def each(self, styles: Tensor) -> Tensor:
        """Return the distance of each of N images on its own (N,); see `each`."""
        return torch.from_numpy(each([self], styles.numpy())[0])

    def seen(self, styles: Tensor) -> "Place":
        """Return the place after more images (N, D) of its domain."""
        known, images = min(self.images, MEMORY_IMAGES), len(styles)
        found = Group(styles.numpy()).spread
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
        """Return how far two domains are apart, over what chance explains in the narrower one; see `distances`."""
        apart = other.centre.numpy() - self.centre.numpy()
        square = float(np.square(apart).sum()) / len(apart)
        return self._over_chance(square, other.images, min(self.spread, other.spread))

    def _over_chance(self, square: float, images: float, spread: float) -> float:
        return square / (spread * (1 / images + 1 / self.images + 1 / KIN_IMAGES))


def distances(places: Sequence[Place], group: Group) -> list[float]:
    """Return how far the mean of images lies from each place, over what chance explains.

    The squared distance of two means over D, divided by the spread times (1 / n + 1 / images + 1 / 16), where n is how
    many different pictures the N are of: below 1 if the images are drawn from there at random, and about 1 if they are
    all of one class or show one scene. That there are many of one class brings them no nearer, so the last term stays;
    see `space.KIN_IMAGES`. The spread is the images' own if they scatter less than the domain does: a wide domain does
    not take in what is narrow and lies beside it.
    """
    own = np.inf if group.spread is None else max(1.0, group.spread)
    squares = np.square(group.mean - _centres(places)).sum(1) / len(group.mean)
    return [
        place._over_chance(square, group.pictures, min(own, place.spread))
        for place, square in zip(places, squares.tolist(), strict=True)
    ]


def each(places: Sequence[Place], styles: Values) -> Values:
    """Return the distance of each of N images (N, D) on its own, from each place (places, N).

    It is squared, over D and over that of another image from the centre as it is known.
    """
    centres = _centres(places)
    apart = np.square(centres).sum(1)[:, None] + np.square(styles).sum(1) - 2 * (centres @ styles.T)
    found: Values = apart / (styles.shape[1] * _usual_of_one(places))
    return found


def surprises(places: Sequence[Place], apart: Values) -> Values:
    """Return how unlikely images are in each place (places, N): which they are of, the least one says.

    Images scatter around a centre as a Gaussian, alike in all directions of the whitened space: with s for
    spread times (1 + 1 / images), the density of an image is (2 pi s)^(-D/2) exp(-|x - centre|^2 / (2 s)). This is
    -2 / D times its logarithm, less log(2 pi): the distance + log(s). By the distance alone a wide place would be the
    nearest to everything, for what lies in its middle as well, where another is far more likely.

    Args:
        places: The places.
        apart: The distance of each image on its own, as `each` returns them (places, N).
    """
    found: Values = apart + np.log(_usual_of_one(places))
    return found


def _usual_of_one(places: Sequence[Place]) -> Values:
    """Return the mean squared distance over D of another image from each centre as it is known (places, 1)."""
    return np.array([[place.spread * (1 + 1 / place.images)] for place in places])


def _centres(places: Sequence[Place]) -> Values:
    centres: Values = torch.stack([place.centre for place in places]).numpy()
    return centres
