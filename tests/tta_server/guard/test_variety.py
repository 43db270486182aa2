import pytest
import torch

from tests.tta_server.guard.streams import clean
from tta_server.guard.variety import distinct, diversity, enough


def test_different_images_all_count():
    assert distinct(clean(0, 64)) == 64


@pytest.mark.parametrize("levels", [0, 2, 4])
def test_copies_count_once_though_they_flicker(levels):
    generator = torch.Generator().manual_seed(0)
    x = clean(0, 4).repeat(8, 1, 1, 1)

    assert distinct(x + levels / 255 * (2 * torch.rand(x.shape, generator=generator) - 1)) == 4


def test_images_of_one_colour_are_one_picture():
    assert distinct(torch.zeros(8, 3, 32, 32)) == 1


@pytest.mark.parametrize(("images", "needed"), [(2, 2), (4, 2), (16, 8), (64, 16), (256, 16)])
def test_large_windows_may_repeat_themselves_more(images, needed):
    assert enough(images) == needed


def test_diversity_is_one_for_all_alike_and_zero_for_one():
    assert diversity(torch.full((10,), 0.1)) == pytest.approx(1)
    assert diversity(torch.eye(10)[3]) == 0
