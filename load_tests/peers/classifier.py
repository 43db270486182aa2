"""What the other servers serve: a network with its preprocessing, as a person writes it who needs no more."""

import importlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import torch
import yaml
from PIL import Image
from torch import nn

from tta_server.models import Preprocess, glyphs
from tta_server.models.weights import load_weights, read_weights

ROWS = 32
"""Most images in one forward."""
GATHER_S = 0.001
"""How long LitServe and mosec wait for more images: the least that fills their batches."""


class Null(nn.Module):
    """A network that costs next to nothing: what is left is the server."""

    def __init__(self) -> None:
        """Make the weights."""
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores (N, 10) of images (N, 3, H, W)."""
        scores: torch.Tensor = self.head(x[:, :, 0, 0])
        return scores


class Classifier:
    """A network and what is done before and after it."""

    def __init__(self, network: str) -> None:
        """Load "glyphs", "null", or the network of a folder that `load_tests.networks` made; torch gets one thread."""
        torch.set_num_threads(1)
        self._module, size, *moments = _network(network)
        self._module.eval()
        self._preprocess = Preprocess(size)
        self._mean, self._std = (torch.tensor(of).view(3, 1, 1) for of in moments)

    def decode(self, file: bytes) -> npt.NDArray[np.uint8]:
        """Return an image file as bytes (C, H, W)."""
        with Image.open(io.BytesIO(file)) as image:
            return self._preprocess(image)

    @torch.inference_mode()
    def answer(self, images: list[npt.NDArray[np.uint8]]) -> list[bytes]:
        """Return what is said of each image, as JSON."""
        x = torch.from_numpy(np.stack(images)).float() / 255
        rows = self._module((x - self._mean) / self._std).softmax(1).numpy()
        return [orjson.dumps({"probabilities": row}, option=orjson.OPT_SERIALIZE_NUMPY) for row in rows]


def described(folder: str) -> dict[str, Any]:
    """Return the section `model` of the configuration in a folder that `load_tests.networks` made."""
    section: dict[str, Any] = yaml.safe_load((Path(folder) / "model.yaml").read_text())["model"]
    return section


def _network(network: str) -> tuple[nn.Module, Sequence[int], Sequence[float], Sequence[float]]:
    """Return a network with its weights, height and width of its input, and mean and deviation of the channels."""
    if network == "null":
        return Null(), glyphs.INPUT_SHAPE[1:], glyphs.MEAN, glyphs.STD
    if network == "glyphs":
        module, weights = glyphs.build(), glyphs.WEIGHTS
        inputs = glyphs.INPUT_SHAPE[1:], glyphs.MEAN, glyphs.STD
    else:
        said = described(network)
        package, _, factory = said["architecture"].partition(":")
        module, weights = getattr(importlib.import_module(package), factory)(), Path(said["weights"])
        preprocess = said["preprocess"]
        inputs = preprocess["size"], preprocess.get("mean", [0.0] * 3), preprocess.get("std", [1.0] * 3)
    load_weights(module, read_weights(weights), str(weights))
    return module, *inputs
