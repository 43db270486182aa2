"""The random view, against torchvision, and how a network is asked about many."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms.v2 import functional as vision

from tta_server.adapters import augment as module
from tta_server.adapters.augment import augment, forward_views
from tta_server.models import TorchBackbone


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flip_odd(images: Tensor, index: int, generator: torch.Generator) -> Tensor:
    return images.flip(3) * (1 - 0.05 * index) if index % 2 else images


@settings(max_examples=30, deadline=None)
@given(
    channels=st.sampled_from([1, 2, 3, 4]),
    height=st.integers(4, 20),
    width=st.integers(4, 20),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_a_view_keeps_shape_type_and_range(channels, height, width, dtype, seed):
    images = 3 * torch.rand(2, channels, height, width, dtype=dtype, generator=seeded(seed)) - 1

    view = augment(images, 0, seeded(seed))

    assert (view.shape, view.dtype) == (images.shape, dtype)
    assert view.min() >= 0
    assert view.max() <= 1


def test_a_view_follows_from_the_generator(batch):
    views = [augment(batch, 0, seeded(seed)) for seed in (1, 1, 2)]

    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_a_batch_has_one_set_of_parameters(batch):
    view = augment(batch[:1].repeat(4, 1, 1, 1), 0, seeded(3))

    # only the noise differs, whose deviation is 0.005
    assert 0 < (view - view[:1]).abs().max() < 0.06


@pytest.mark.parametrize("turns", [-0.06, 0.0, 0.03, 0.06])
def test_hue_turns_as_in_torchvision(batch, turns):
    assert_close(module._turn_hue(batch, turns), vision.adjust_hue(batch, turns), atol=1e-5, rtol=0)


def test_gray_images_have_no_hue():
    images = torch.rand(2, 1, 4, 4).expand(2, 3, 4, 4)

    assert torch.equal(module._turn_hue(images, 0.05), images)


@pytest.mark.parametrize("seed", range(4))
def test_colours_change_as_in_torchvision(batch, seed):
    generator = seeded(seed)
    factors = [module._uniform(generator, *span) for span in ((0.6, 1.4), (0.7, 1.3), (0.5, 1.5), (-0.06, 0.06))]
    gamma = module._uniform(generator, 0.7, 1.3)
    changes = [
        lambda x: vision.adjust_brightness(x, factors[0]),
        lambda x: vision.adjust_contrast(x, factors[1]),
        lambda x: vision.adjust_saturation(x, factors[2]),
        lambda x: vision.adjust_hue(x, factors[3]),
        lambda x: vision.adjust_gamma(x.clamp(1e-8, 1), gamma),
    ]
    expected = batch
    for change in torch.randperm(5, generator=generator).tolist():
        expected = changes[change](expected)

    assert_close(module._jitter(batch, seeded(seed)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("angle", "shift", "zoom", "sigma"), [(15, (4, -3), 0.9, 0.5), (-9.5, (-4, 4), 1.1, 0.3), (0, (0, 0), 1, 0.001)]
)
def test_moving_equals_padding_turning_blurring_and_cropping(batch, angle, shift, zoom, sigma):
    height, width = batch.shape[2:]
    padded = vision.pad(batch, [width // 2, height // 2], padding_mode="edge")
    moved = vision.affine(padded, angle, list(shift), zoom, [0.0, 0.0], interpolation=vision.InterpolationMode.BILINEAR)
    expected = vision.center_crop(vision.gaussian_blur(moved, [5, 5], [sigma, sigma]), [height, width])

    view = module._blur(module._sample(batch, math.radians(angle), shift, zoom), sigma)

    assert_close(view, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("statistics", ["stored", "batch"])
@pytest.mark.parametrize("rows", [1, 40, 256])
def test_views_that_share_a_forward_are_answered_as_alone(backbone, batch, monkeypatch, statistics, rows):
    monkeypatch.setattr(module, "FORWARD_ROWS", rows)
    alone = [backbone.forward(flip_odd(batch, index, seeded(0)), statistics=statistics) for index in range(5)]

    views = forward_views(backbone, batch, 5, flip_odd, seeded(0), {}, statistics)

    # the same arithmetic in larger convolutions
    assert_close(views.logits, torch.stack([output.logits for output in alone]), atol=1e-5, rtol=1e-5)
    assert_close(views.features, torch.stack([output.features for output in alone]), atol=1e-5, rtol=1e-5)


def test_a_forward_has_no_more_than_so_many_rows(backbone, batch, monkeypatch):
    monkeypatch.setattr(module, "FORWARD_ROWS", 40)
    forward, rows = TorchBackbone.forward, []
    monkeypatch.setattr(TorchBackbone, "forward", lambda *args: rows.append(len(args[1])) or forward(*args))

    forward_views(backbone, batch, 5, flip_odd, seeded(0), {}, "stored")

    assert rows == [32, 32, 16]
