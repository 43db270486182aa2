"""How many different pictures images are of: a still camera sends many images and says as little as one of them."""

from typing import Any

import numpy as np
import numpy.typing as npt


def different(products: npt.NDArray[Any], unlike: float, kinds: npt.NDArray[Any] | None = None) -> float:
    """Return how many different pictures there are among images, 1 to N.

    N squared over the sum of how alike all pairs are, an image with itself included: Simpson's index of diversity as a
    number of kinds (Hill, Ecology 1973), with likeness counted (Leinster & Cobbold, Ecology 2012, order 2). Two images
    are alike by 1 less their mean squared difference over `unlike`.

    Args:
        products: Mean product of the numbers of each two images, from whatever origin, in units in which those of
            unlike source images differ by 2 in the mean square (N, N).
        unlike: Mean squared difference from which on two images are not alike at all.
        kinds: Images of two of these are not alike at all (N,); all are of one if it is None.
    """
    squares = products.diagonal()
    apart = squares[:, None] + squares - 2 * products
    alike = np.minimum(np.maximum(1 - apart / unlike, 0), 1)  # on so few, `clip` takes as long as all else here
    if kinds is not None:
        alike = alike * (kinds[:, None] == kinds)
    return float(len(products) ** 2 / alike.sum())
