import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.networks import reference_network
from tta_server.domains.place import Place
from tta_server.domains.space import KIN_IMAGES, LEAST_KIN, PART, StyleSpace, fit, kin
from tta_server.models import Reference, TorchBackbone

LAYERS = ("bn1",)
MANY = 40  # dimensions: in so many, images that are drawn apart are never alike
FEW = settings(deadline=None, max_examples=20)


def styles(n, dimensions=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(99))
    return torch.randn(n, dimensions, generator=generator) @ mixing + 3


def some(n):
    return torch.arange(n) % 7


def test_other_source_images_lie_at_a_distance_of_1():
    held_out = styles(300, MANY, seed=1)

    space = fit(LAYERS, styles(300, MANY), held_out, some(300))

    home = Place.source(MANY, space.images)
    assert_close(home.each(space.whiten(held_out)).mean().item(), 1.0, atol=0.01, rtol=0)
    windows = space.whiten(styles(1600, MANY, seed=2)).split(16)
    chance = (1 / 16 + 1 / 300) / (1 / 16 + 1 / 300 + 1 / KIN_IMAGES)
    assert_close(sum(home.distance(window) for window in windows) / len(windows), chance, rtol=0.2, atol=0)


@FEW
@given(scales=st.lists(st.floats(0.4, 2.5), min_size=6, max_size=6), seed=st.integers(0, 99))
def test_the_unit_of_a_channel_changes_no_distance(scales, seed):
    unit, seen = torch.tensor(scales), styles(4, seed=seed)
    fitted, held_out = styles(200, seed=seed + 1), styles(50, seed=seed + 2)

    plain = fit(LAYERS, fitted, held_out, some(len(fitted)))
    scaled = fit(LAYERS, fitted * unit, held_out * unit, some(200))

    there = scaled.whiten(seen * unit).square().sum(1)
    assert_close(there, plain.whiten(seen).square().sum(1), rtol=0.2, atol=0.05)


def test_a_direction_that_source_images_hardly_use_counts():
    fitted, held_out = styles(400), styles(100, seed=1)
    values, axes = torch.linalg.eigh(torch.cov(fitted.T))
    step = axes[:, 0] * values[-1].sqrt() / 2  # small beside how images vary, but not in this direction

    space = fit(LAYERS, fitted, held_out, some(len(fitted)))

    home = Place.source(6, space.images)
    assert home.distance(space.whiten(held_out[:16] + step)) > 5 * home.distance(space.whiten(held_out[:16]))


def test_images_of_one_class_lie_near_and_what_no_class_shows_lies_as_far_as_ever():
    centres = 6 * torch.randn(4, 12, generator=torch.Generator().manual_seed(5))
    centres[:, 6:] = 0
    classes, others = torch.arange(600) % 4, torch.arange(200) % 4
    fitted, held_out = styles(600, 12) + centres[classes], styles(200, 12, seed=1) + centres[others]

    apart, together = fit(LAYERS, fitted, held_out, torch.arange(600)), fit(LAYERS, fitted, held_out, classes)

    def far(space, seen):
        return Place.source(12, space.images).distance(space.whiten(seen))

    of_one_class = held_out[others == 0][:16]
    assert far(together, of_one_class) < 0.6 * far(apart, of_one_class)
    step = torch.zeros(12)
    step[6:] = 4
    assert far(together, held_out[:16] + step) > far(apart, held_out[:16] + step)


@FEW
@given(counts=st.lists(st.integers(0, 80), min_size=1, max_size=40).filter(any))
def test_windows_of_kin_show_one_class_wherever_there_are_enough_images_of_it(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(len(labels)))]

    windows = [window[:, 0].long() for window in kin(labels[:, None].double(), labels)]

    shown = torch.cat(windows).bincount(minlength=len(counts)).tolist()
    enough = [number for number, count in enumerate(counts) if count >= LEAST_KIN]
    assert all(shown[number] == counts[number] for number in enough)
    mixed = [window for window in windows if len(window.unique()) > 1 or counts[int(window[0])] < LEAST_KIN]
    pure = [window for window in windows if int(window[0]) in enough and len(window.unique()) == 1]
    assert len(pure) == sum(max(1, counts[number] // KIN_IMAGES) for number in enough)
    assert all(LEAST_KIN <= len(window) < 2 * KIN_IMAGES for window in pure)
    assert all(len(window) == KIN_IMAGES for window in mixed) or len(windows) == 1
    assert all(torch.equal(window, window.sort().values) for window in mixed if enough or len(windows) > 1)


def test_where_each_class_has_one_image_windows_show_neighbouring_classes():
    labels = torch.randperm(40, generator=torch.Generator().manual_seed(0))

    windows = kin(labels[:, None].double(), labels)

    assert [window[:, 0].tolist() for window in windows] == [list(range(16)), list(range(16, 32))]


@pytest.mark.parametrize("dead", [0.0, 7.0])
def test_a_channel_that_never_changes_leaves_the_space_finite(dead):
    fitted, held_out = styles(50), styles(20, seed=1)
    fitted[:, 2] = held_out[:, 2] = dead

    space = fit(LAYERS, fitted, held_out, some(len(fitted)))

    assert space.whitener.isfinite().all()
    assert space.whiten(held_out).isfinite().all()


def test_fewer_images_than_dimensions_are_enough():
    space = fit(LAYERS, styles(5, 40), styles(3, 40, seed=1), some(5))

    assert space.whitener.isfinite().all()


@pytest.mark.parametrize(("fitted", "held_out"), [(1, 5), (5, 0), (0, 0)])
def test_too_few_images_are_refused(fitted, held_out):
    with pytest.raises(ValueError, match="a style space needs at least 3 images"):
        fit(LAYERS, styles(fitted), styles(held_out), some(fitted))


def test_a_space_comes_back_from_a_bundle_and_looks_at_images():
    backbone = TorchBackbone(reference_network(), (3, 32, 32))
    x = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = backbone.norm_layers[:2]
    raw, _ = backbone.styles(x, layers)
    space = fit(layers, raw[:8], raw[8:], some(8), limit=3.5)
    about = {PART: {"layers": list(layers), "images": space.images, "limit": space.limit}}
    bundle = Reference("", {f"{PART}/mean": space.mean, f"{PART}/whitener": space.whitener}, about)

    again = StyleSpace.of(bundle)

    assert (again.layers, again.images, again.limit) == (layers, 8, 3.5)
    found, output = again.styles(backbone, x)
    assert torch.equal(found, space.whiten(raw))
    assert torch.equal(output.logits, backbone.forward(x).logits)
