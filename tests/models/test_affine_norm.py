"""Normalisation layers that hold no tensor, or none but some, are ones all the same."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.models.small import images
from tta_server.calibrate.bundle import calibrate
from tta_server.models import Custom, Preprocess, TorchBackbone, load
from tta_server.models.affine_norm import channels, has_statistics, is_norm

NORMS = {
    "instance": lambda: nn.InstanceNorm2d(8),
    "instance affine": lambda: nn.InstanceNorm2d(8, affine=True),
    "instance tracking": lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
    "batch untracked": lambda: nn.BatchNorm2d(8, track_running_stats=False),
    "batch bare": lambda: nn.BatchNorm2d(8, affine=False, track_running_stats=False),
    "batch not affine": lambda: nn.BatchNorm2d(8, affine=False),
    "group bare": lambda: nn.GroupNorm(2, 8, affine=False),
}


def network(norm: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.Conv2d(3, 8, 3, 2), NORMS[norm](), nn.ReLU()
        return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_known_how_many_channels_it_has_and_whether_it_keeps_statistics(norm):
    layer = NORMS[norm]()

    assert is_norm(layer)
    assert channels(layer) == 8
    assert has_statistics(layer) == (norm in ("instance tracking", "batch not affine"))


def test_a_norm_that_does_not_say_how_many_channels_it_has_is_refused():
    class OwnNorm(nn.Module):
        running_mean = None

    with pytest.raises(ValueError, match="a OwnNorm does not say how many channels it has"):
        channels(OwnNorm())


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_with_it_gets_a_bundle_with_a_style(norm):
    levels = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), dtype=np.uint8)

    found = calibrate(TorchBackbone(network(norm), (3, 8, 8)), levels, np.arange(64) % 4)

    assert {"style", "null", "features"} <= found.parts


@pytest.mark.parametrize("norm", NORMS)
def test_in_half_precision_it_stays_in_full(norm):
    model = load(
        "tests.models.test_affine_norm:network",
        custom=Custom(preprocess=Preprocess((8, 8)), arguments={"norm": norm}, dtype="bfloat16"),
    )

    answers = model.backbone.forward(images()).logits

    assert {tensor.dtype for tensor in model.backbone.norm_affine().values()} <= {torch.float32}
    assert_close(answers.float(), network(norm).eval()(images()), atol=0.05, rtol=0)
