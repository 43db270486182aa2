"""Images of one colour: a covered lens, an empty frame, a placeholder."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tta_server.errors import ConstantImage


def refuse_constant(images: npt.NDArray[Any], names: Sequence[str]) -> None:
    """Do nothing if every image has more than one colour.

    Args:
        images: (n, C, H, W).
        names: What to call each in an error.

    Raises:
        ConstantImage: If one has not.
    """
    corners = images[:, :, :1, :1]
    suspects = (images[:, :, :1] == corners).all((1, 2, 3))  # the first line tells nearly all of them apart
    for index in np.flatnonzero(suspects).tolist():
        if (images[index] == corners[index]).all():
            raise ConstantImage(
                f"{names[index]} is of one colour; there is nothing to recognise in it, and nothing of this request "
                "was answered or learnt from"
            )
