"""Images of one colour: a covered lens, an empty frame, a placeholder."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tta_server.errors import ConstantImage
from tta_server.streams.window import is_constant


def refuse_constant(images: npt.NDArray[Any], names: Sequence[str]) -> None:
    """Do nothing if every image has more than one colour.

    Args:
        images: (n, C, H, W).
        names: What to call each in an error.

    Raises:
        ConstantImage: If one has not.
    """
    for index in np.flatnonzero(is_constant(images)).tolist():
        raise ConstantImage(
            f"{names[index]} is of one colour; there is nothing to recognise in it, and nothing of this request "
            "was answered or learnt from"
        )
