"""Images that wait to be learnt from, as a file has them: digests in its record, pixels beside."""

import time
from collections.abc import Iterable
from typing import Final

import numpy as np
import torch

from tta_server.models import Tensors
from tta_server.streams.stored import StoredImage
from tta_server.streams.window import Sample

WINDOW: Final = "window/"
"""What the names of their tensors begin with."""


def samples(images: Iterable[StoredImage], beside: Tensors) -> list[Sample]:
    """Return them as a window has them.

    Raises:
        ValueError: If one is missing.
    """
    now_s = time.monotonic()
    return [
        Sample(
            np.ascontiguousarray(_image(beside, i).cpu().numpy()),
            bytes.fromhex(each.digest),
            each.client,
            min(each.arrived_s, now_s),  # another process's clock may be ahead
        )
        for i, each in enumerate(images)
    ]


def _image(beside: Tensors, place: int) -> torch.Tensor:
    image = beside.get(f"{WINDOW}{place:06d}")
    if image is None:
        raise ValueError(f"image {place} of its window is missing in the file")
    return image
