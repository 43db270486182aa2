"""What the other servers serve: a network with its preprocessing, as a person writes it who needs no more."""

import io

import numpy as np
import numpy.typing as npt
import orjson
import torch
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
        """Load "glyphs" or "null"; torch gets one thread."""
        torch.set_num_threads(1)
        self._preprocess = Preprocess(glyphs.INPUT_SHAPE[1:])
        self._module = glyphs.build() if network == "glyphs" else Null()
        if network == "glyphs":
            load_weights(self._module, read_weights(glyphs.WEIGHTS), str(glyphs.WEIGHTS))
        self._module.eval()
        self._mean, self._std = (torch.tensor(of).view(3, 1, 1) for of in (glyphs.MEAN, glyphs.STD))

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
