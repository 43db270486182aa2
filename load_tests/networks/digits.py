"""Two small networks for handwritten digits, trained here in seconds: one of BatchNorm layers, one of GroupNorm layers.

The digits are scikit-learn's: 1,797 of 8 x 8 pixels by 43 writers (Alpaydin and Kaynak, Optical Recognition of
Handwritten Digits, 1998, CC BY 4.0), enlarged to 32 x 32.
"""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from load_tests.networks.folders import Shown
from load_tests.networks.wheels import SCIKIT_LEARN, read

SIDE = 32
LABELS = tuple("0123456789")

_FILE = "sklearn/datasets/data/digits.csv.gz"
_PIXELS, _MOST = 8, 16  # pixels in a row of a digit as it is published, and the darkest of its levels
_TRAINED, _CALIBRATED = 0.45, 0.2  # shares of the digits; the rest is shown
_CHANNELS, _GROUP = (16, 16, 32, 32, 64, 64), 4  # and channels in a group
_PLACES = 2  # in a row, whose features the last layer tells apart: strokes lie somewhere
_EPOCHS, _ROWS, _RATE = 15, 32, 3e-3
_SHIFT, _TURN = 0.15, 0.2  # most that a digit is moved, in half widths, and turned, in radians, while trained on


def batch_norm() -> nn.Module:
    """Return the network with BatchNorm layers and random weights; (N, 3, 32, 32) to logits (N, 10)."""
    return _network(nn.BatchNorm2d)


def group_norm() -> nn.Module:
    """Return the network with GroupNorm layers and random weights; (N, 3, 32, 32) to logits (N, 10)."""
    return _network(lambda channels: nn.GroupNorm(channels // _GROUP, channels))


def digits(wheels: Path, seed: int) -> tuple[Shown, Shown, Shown]:
    """Return digits to train on, to calibrate with and to show; no digit is in two of them.

    Raises:
        ValueError: If the wheel is not in the folder `wheels`.
    """
    text = gzip.decompress(read(wheels, SCIKIT_LEARN, _FILE)).decode()
    table = np.array([line.split(",") for line in text.split()]).astype(np.float32)
    table = table[np.random.default_rng(seed).permutation(len(table))]
    small = torch.from_numpy(table[:, :-1]).reshape(-1, 1, _PIXELS, _PIXELS) / _MOST
    large = F.interpolate(small, (SIDE, SIDE), mode="bilinear", align_corners=False)
    images = (255 * large).round().to(torch.uint8).expand(-1, 3, -1, -1).numpy()
    edges = [round(share * len(table)) for share in (_TRAINED, _TRAINED + _CALIBRATED)]
    columns = np.split(images, edges), np.split(table[:, -1].astype(np.int64), edges)
    trained, calibrate, evaluate = (Shown(*part) for part in zip(*columns, strict=True))
    return trained, calibrate, evaluate


def train(factory: Callable[[], nn.Module], shown: Shown, seed: int, epochs: int = _EPOCHS) -> dict[str, Tensor]:
    """Return the weights of a network that was trained on digits; the same each time on one machine."""
    x, labels = torch.from_numpy(shown.images).float() / 255, torch.from_numpy(shown.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = factory().train()
        optimizer = torch.optim.Adam(network.parameters(), _RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(_ROWS):
                if len(rows) > 1:  # of one image alone there are no batch statistics
                    optimizer.zero_grad()
                    F.cross_entropy(network(_moved(x[rows])), labels[rows]).backward()
                    optimizer.step()
            schedule.step()
    return network.state_dict()


def _network(norm: Callable[[int], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in _CHANNELS:
        stride = 2 if outputs > inputs > 3 else 1
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(_PLACES), nn.Flatten(), nn.Linear(inputs * _PLACES**2, len(LABELS))
    )


def _moved(x: Tensor) -> Tensor:
    """Return images turned and shifted a little, each by amounts of its own."""
    turn = _TURN * (2 * torch.rand(len(x)) - 1)
    shift = _SHIFT * (2 * torch.rand(len(x), 2) - 1)
    sine, cosine = turn.sin(), turn.cos()
    rows = torch.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], 1).reshape(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(rows, list(x.shape), align_corners=False), align_corners=False)
