"""Between images as callers send them and tensors on the device."""

from collections.abc import Iterable

import torch

from tta_server.adapters.losses import entropy
from tta_server.drift.scores import Yardstick
from tta_server.models import Output
from tta_server.runtime.job import Scores
from tta_server.streams.window import Images


def on_device(parts: Iterable[Images], device: torch.device) -> torch.Tensor:
    """Return images as floats in [0, 1] on the device; bytes travel as bytes."""
    tensors = [torch.from_numpy(part) for part in parts]
    if len({tensor.dtype for tensor in tensors}) > 1:
        tensors = [_floats(tensor) for tensor in tensors]
    becomes_another = len(tensors) == 1 and tensors[0].dtype == torch.uint8  # floats would stay the caller's own
    return _floats((tensors[0] if becomes_another else torch.cat(tensors)).to(device))


def read(output: Output, yardstick: Yardstick | None = None) -> Scores:
    """Bring what a model says of n images to the host in one copy.

    Args:
        output: What it says.
        yardstick: The source's, if it is the frozen model and drift is to be seen.
    """
    logits = output.logits.float()
    shares = logits.softmax(1)
    columns = [shares, entropy(logits, shares)[:, None]]
    if yardstick is not None:
        columns += yardstick.measure(logits, output.features.float())
    host, classes = torch.cat(columns, 1).cpu().numpy(), logits.shape[1]
    found = host[:, :classes]
    beside = None if yardstick is None else host[:, classes + 1 :]
    return Scores(found, host[:, classes], found.argmax(1), found.max(1), beside)


def _floats(batch: torch.Tensor) -> torch.Tensor:
    return batch / 255 if batch.dtype == torch.uint8 else batch
