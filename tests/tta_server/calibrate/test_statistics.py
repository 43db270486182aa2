import numpy as np
import pytest
import torch
from torch import nn

from tests.tta_server.runtime.fakes import rows, tiny
from tta_server.calibrate.bundle import calibrate
from tta_server.calibrate.statistics import LEAST_IMAGES, SHARES, statistics
from tta_server.models import TorchBackbone, load
from tta_server.models.robust import PART, measured_share


class ByBrightness(nn.Module):
    """Names an image by its mean level alone: whoever normalises by a batch's own mean takes the answer away."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, eps=0)
        self.fc = nn.Linear(1, 2)
        self.norm.running_mean.fill_(0.2)
        self.norm.running_var.fill_(0.01)
        self.fc.weight.data = torch.tensor([[-1.0], [1.0]])
        self.fc.bias.data.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(x.mean(1, keepdim=True)).mean((2, 3)))


def share_of(backbone, images, seed=0):
    return statistics(backbone, images, np.random.default_rng(seed), lambda *_: None)


def test_the_share_is_the_one_with_the_fewest_errors_and_of_equal_ones_the_smallest_unless_nothing_is_gained():
    tensors, about = share_of(tiny(), rows(80))

    errors = {float(share): error for share, error in about[PART]["errors"].items()}
    assert set(errors) == set(SHARES)
    equal = {share for share, error in errors.items() if error == min(errors.values())}
    best = 1.0 if 1.0 in equal else min(equal)
    assert float(tensors["statistics/source_share"]) == about[PART]["source_share"] == best


def test_a_network_that_reads_what_its_statistics_would_take_away_keeps_them():
    levels = np.random.default_rng(0).integers(60, 250, (64, 1, 1, 1))
    images = np.broadcast_to(levels, (64, 3, 8, 8)).astype(np.uint8)

    tensors, about = share_of(TorchBackbone(ByBrightness(), (3, 8, 8)), images)

    assert about[PART]["errors"]["1.0"] < about[PART]["errors"]["0.0"]
    assert float(tensors["statistics/source_share"]) > 0.5


def test_the_embedded_network_gains_by_its_own_statistics_alone():
    assert measured_share(load("glyphs").reference) == 0


@pytest.mark.parametrize("seed", [0, 3])
def test_equal_arguments_give_equal_shares(seed):
    assert share_of(tiny(), rows(80), seed) == share_of(tiny(), rows(80), seed)


def test_fewer_images_are_refused():
    with pytest.raises(ValueError, match=f"needs at least {LEAST_IMAGES} images, got {LEAST_IMAGES - 1}"):
        share_of(tiny(), rows(LEAST_IMAGES - 1))


def test_a_network_without_such_statistics_has_no_part_and_lacks_none(layer_norm_backbone):
    images = np.random.default_rng(0).integers(0, 256, (40, *layer_norm_backbone.spec.input_shape), dtype=np.uint8)

    found = calibrate(layer_norm_backbone, images, None, methods=[])

    assert PART not in found.parts | found.about["left_out"].keys()
    assert measured_share(found) == 0
