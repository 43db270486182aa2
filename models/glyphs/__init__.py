"""Scene characters: the embedded default model, its labelled images, and how to make both again.

The network takes normalised images; `MEAN` and `STD` are applied by the caller. See MODEL_CARD.md.
"""

import threading
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tta_server.models.glyphs.network import GlyphNet
from tta_server.models.glyphs.spec import INPUT_SHAPE, LABELS, MEAN, STD

__all__ = ["INPUT_SHAPE", "LABELS", "MEAN", "REFERENCE", "STD", "WEIGHTS", "build", "images"]

WEIGHTS = Path(__file__).with_name("weights.safetensors")
REFERENCE = WEIGHTS.with_name("reference.safetensors")
"""What `tta-server calibrate --model glyphs --data glyphs` made of the source images."""

_READING = threading.Lock()  # numpy parses headers by `ast`, which CPython 3.11 lets no two threads do at once


def build() -> nn.Module:
    """Return the untrained network: normalised images (N, 3, 32, 32) to logits (N, 36); its head is `fc`."""
    return GlyphNet(len(LABELS))


def images(split: Literal["test", "source"]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return labelled images that the network was not trained on, shuffled and balanced over the classes.

    Args:
        split: "test" for 3,000 images of fonts that training did not see, "source" for 1,000 of the training fonts.

    Returns:
        Images (N, 3, 32, 32) in 0 to 255 and labels (N,), indices into LABELS; the caller owns both.

    Raises:
        ValueError: If there is no such split.
    """
    if split not in ("test", "source"):
        raise ValueError(f"unknown split {split!r}, expected 'test' or 'source'")
    with _READING, np.load(WEIGHTS.with_name(f"{split}.npz"), allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]
