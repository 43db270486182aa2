"""Which labelled images become canary and memory; none is in both, or the one would recognise the other."""

import numpy as np
from numpy.typing import NDArray

from tta_server.calibrate.mixed import Mixed

LEAST_CANARY = 10
"""A canary of fewer images says nothing."""


def canary(data: Mixed, classes: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the rows of the canary, spread evenly over the classes that can spare an image.

    Args:
        data: The source images.
        classes: How many the model knows.
        most: Images; of more classes than that, so many are drawn.
        rng: Draws.

    Raises:
        ValueError: If there are no labels, or too few images.
    """
    data.require_labels()
    least, counts = min(LEAST_CANARY, most), np.bincount(data.labels, minlength=classes)
    shown, several = np.flatnonzero(counts), np.flatnonzero(counts > 1)
    pool = several if (counts[several] // 2).sum() >= least else shown
    drawn = np.sort(rng.permutation(pool)[:most])
    # Evenly, and at most half of any class, so that the memory has some too.
    even = max(1, min(most // len(pool), int(counts[pool].min()) // 2), -(-least // len(drawn)))
    shares = np.minimum(even, np.maximum(1, counts // 2))
    rows = _balanced(np.arange(len(data)), data.labels, drawn, shares, rng)
    if len(rows) < least:
        raise ValueError(f"needs at least {least} images, at most half of those of a class, got {len(rows)}")
    return rows


def memory(
    data: Mixed, classes: int, free: NDArray[np.int64], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the rows whose features are remembered.

    Args:
        data: The source images.
        classes: How many the model knows.
        free: Rows of those that are no canary.
        most: Rows, spread evenly over the classes; each has at least one.
        rng: Draws.

    Raises:
        ValueError: If there are no labels, or a class has no image.
    """
    data.require_labels()
    lacking = int((np.bincount(data.labels[free], minlength=classes) == 0).sum())
    if lacking:
        raise ValueError(f"needs an image of each class beside the canary's; {lacking} of {classes} have none")
    shares = np.full(classes, max(1, most // classes))
    return _balanced(free, data.labels, np.arange(classes), shares, rng)


def _balanced(
    free: NDArray[np.int64],
    labels: NDArray[np.int64],
    classes: NDArray[np.int64],
    shares: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return of each of `classes` at most its share of the rows `free`."""
    return np.concatenate([rng.permutation(free[labels[free] == label])[: shares[label]] for label in classes])
