"""Images that wait to be learnt from, as a file has them: digests in its record, pixels beside."""

import time
from collections.abc import Iterable
from typing import Final

import numpy as np

from tta_server.models import Tensors
from tta_server.streams.files.stored import StoredImage
from tta_server.streams.window import Sample

WINDOW: Final = "window/"
"""What the names of their tensors begin with."""


def samples(images: Iterable[StoredImage], beside: Tensors) -> list[Sample]:
    """Return them as a window has them, up to the first that is missing."""
    now_s = time.monotonic()
    found: list[Sample] = []
    for place, each in enumerate(images):
        image = beside.get(f"{WINDOW}{place:06d}")
        if image is None:
            break
        arrived_s = min(each.arrived_s, now_s)  # another process's clock may be ahead
        pixels = np.ascontiguousarray(image.cpu().numpy())
        found.append(Sample(pixels, bytes.fromhex(each.digest), each.client, arrived_s))
    return found
