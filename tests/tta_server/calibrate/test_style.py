from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from tests.tta_server.runtime.fakes import rows, tiny
from tta_server.calibrate.bundle import calibrate
from tta_server.calibrate.style import LEAST_IMAGES, _limit, style
from tta_server.domains.place import Place
from tta_server.domains.space import StyleSpace, fit
from tta_server.guard.canary import bank
from tta_server.models import Reference, TorchBackbone, glyphs, load


class OverPairs(nn.Module):
    """Normalises the two halves of an image as if they were two images, so no layer sees each image once."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = self.norm(torch.cat(x.chunk(2, 2)))
        return self.fc(sum(half.mean((2, 3)) for half in halves.chunk(2)))


class WithoutNorm(nn.Module):
    """Has no normalisation layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)))


def made(backbone: TorchBackbone, images: np.ndarray, seed: int = 0) -> Reference:
    return Reference("", *style(backbone, images, np.random.default_rng(seed), 64, lambda *_: None))


def images_of(backbone: TorchBackbone, count: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *backbone.spec.input_shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def embedded() -> Reference:
    return made(load("glyphs", calibrated=False).backbone, glyphs.images("source")[0][:300])


@pytest.mark.parametrize("network", ["backbone", "layer_norm_backbone", "glyphs"])
def test_the_layers_lie_between_a_tenth_and_half_of_the_depth(network, request):
    network = load("glyphs").backbone if network == "glyphs" else request.getfixturevalue(network)

    space = StyleSpace.of(made(network, images_of(network)))

    paths = network.norm_layers
    depths = [paths.index(layer) for layer in space.layers]
    assert depths == sorted(set(depths))
    assert all(round(0.1 * (len(paths) - 1)) <= depth <= round(0.5 * (len(paths) - 1)) for depth in depths)


@pytest.mark.parametrize("way", list(bank(torch.zeros(1, 3, 32, 32))))
def test_the_embedded_space_tells_spoilt_images_from_clean_ones(way):
    model = load("glyphs")
    space, clean = StyleSpace.of(model.reference), torch.from_numpy(glyphs.images("test")[0][:128]).float() / 255
    home = Place.source(len(space.mean), space.images)

    near, far = (space.styles(model.backbone, x)[0] for x in (clean, bank(clean)[way]))

    clean_ones, spoilt_ones = ([home.distance(window) for window in styles.split(32)] for styles in (near, far))
    assert all(home.distance(window) < space.limit for window in near.split(16))
    assert min(spoilt_ones) > 2 * max(clean_ones)
    assert min(spoilt_ones) > space.limit or way == "pixelate"  # which lies no farther out than a single class does
    assert (home.each(far)[:, None] > home.each(near)).double().mean() > 0.7


def test_what_the_bundle_says_is_what_the_tensors_are(embedded):
    about = embedded.about["style"]

    width = len(embedded.part("style")["mean"])
    assert embedded.part("style")["whitener"].shape == (width, width)
    assert about["images"] == 180
    assert about["limit"] > 1
    assert 0.5 < about["area"] <= 1


@pytest.mark.parametrize("seed", [0, 7])
def test_equal_arguments_give_equal_spaces_and_seeds_draw_others(seed):
    one, again = (made(tiny(), rows(100), seed) for _ in range(2))
    other = made(tiny(), rows(100), seed + 1)

    assert one.about == again.about
    assert all(torch.equal(one.tensors[name], again.tensors[name]) for name in one.tensors)
    assert not torch.equal(one.tensors["style/mean"], other.tensors["style/mean"])


def test_labels_change_nothing():
    images = rows(300)

    one, other = (
        calibrate(tiny(), images, labels, methods=[]) for labels in (np.arange(300) % 4, np.arange(300) // 75)
    )

    assert one.about["style"] == other.about["style"]
    assert all(torch.equal(one.part("style")[name], other.part("style")[name]) for name in one.part("style"))


def test_other_parts_of_the_bundle_do_not_depend_on_whether_there_is_a_style(monkeypatch):
    arguments = tiny(), rows(300), np.arange(300) % 4
    with_style = calibrate(*arguments)
    monkeypatch.setattr("tta_server.calibrate.bundle.style", lambda *_: ({}, {}))

    without = calibrate(*arguments)

    assert with_style.parts == without.parts | {"style"}
    assert all(torch.equal(with_style.tensors[name], tensor) for name, tensor in without.tensors.items())


@pytest.mark.parametrize("network", [WithoutNorm, OverPairs])
def test_a_network_without_a_layer_that_sees_each_image_once_gets_no_part(network):
    found = calibrate(TorchBackbone(network(), (3, 8, 8)), rows(100), None)

    assert "style" not in found.parts | found.about.keys()
    assert "needs a normalisation layer" in found.about["left_out"]["style"]


def test_fewer_images_are_refused():
    with pytest.raises(ValueError, match=f"needs at least {LEAST_IMAGES} images, got {LEAST_IMAGES - 1}"):
        made(tiny(), rows(LEAST_IMAGES - 1))


@pytest.mark.parametrize("count", [LEAST_IMAGES, LEAST_IMAGES + 1, 50])
def test_few_images_work(count, backbone):
    space = StyleSpace.of(made(backbone, images_of(backbone, count)))

    assert space.whitener.isfinite().all()
    assert 1 <= space.limit < 100


@pytest.mark.parametrize(("channels", "values"), [((8, 8, 8), 32), ((8, 600, 8), 32), ((300, 300, 300), 600)])
def test_the_style_stays_small_where_layers_allow_it(channels, values):
    widths = (3, *channels, 8)
    layers = [nn.Sequential(nn.Conv2d(a, b, 1), nn.BatchNorm2d(b)) for a, b in pairwise(widths)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    found = made(TorchBackbone(nn.Sequential(*layers, head), (3, 8, 8)), rows(40))

    assert len(found.part("style")["mean"]) <= values


def test_images_that_all_look_alike_are_refused():
    with pytest.raises(ValueError, match="the styles of these 64 images do not vary"):
        made(tiny(), np.zeros((64, 3, 8, 8), np.uint8))


def test_classes_that_the_source_images_do_not_show_stay_at_home():
    backbone, (images, labels) = load("glyphs", calibrated=False).backbone, glyphs.images("source")
    known = labels < 18
    hidden = torch.from_numpy(images[~known][np.argsort(labels[~known], kind="stable")]).float() / 255

    reference = made(backbone, images[known])

    space = StyleSpace.of(reference)
    home = Place.source(len(space.mean), space.images)
    assert reference.about["style"]["classes"] < 1
    far = [home.distance(window) < space.limit for window in space.styles(backbone, hidden)[0].split(16)]
    assert sum(far) > 0.9 * len(far), (sum(far), len(far), space.limit)


@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
def test_the_limit_is_that_of_what_a_stream_will_show(known):
    space, styles = fit((), torch.randn(200, 4), torch.randn(100, 4), torch.zeros(200)), torch.randn(160, 4)
    unknown = torch.full((10,), 100.0, dtype=torch.float64)

    limit = _limit(space, styles.double(), torch.arange(160) // 16, unknown, known)

    assert (limit > 100) is (known < 1)
