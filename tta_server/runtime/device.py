"""Between images as callers send them and tensors on the device."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from tta_server.adapters.losses import entropy
from tta_server.models import Output
from tta_server.streams.window import Images


def on_device(parts: Iterable[Images], device: torch.device) -> torch.Tensor:
    """Return images as floats in [0, 1] on the device; bytes travel as bytes."""
    tensors = [torch.from_numpy(part) for part in parts]
    if len({tensor.dtype for tensor in tensors}) > 1:
        tensors = [_floats(tensor) for tensor in tensors]
    return _floats(torch.cat(tensors).to(device))


def read(output: Output) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Bring probabilities (n, K) and entropies in nats (n,) to the host in one copy."""
    scores = output.logits.float()
    host = torch.cat([scores.softmax(1), entropy(scores)[:, None]], 1).cpu().numpy()
    return host[:, :-1], host[:, -1]


def _floats(batch: torch.Tensor) -> torch.Tensor:
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch
