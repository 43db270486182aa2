import dataclasses

import pytest
import torch

from tests.networks import bundle, layer_norm_network, reference_network
from tests.tta_server.guard.streams import model
from tta_server import adapters
from tta_server.guard import canary as canary_module
from tta_server.guard.canary import Canary, CanaryImages, bank, obstacle
from tta_server.models import TorchBackbone


def spoil_parameters(state, scale):
    generator = torch.Generator().manual_seed(0)
    return {
        name: tensor + scale * torch.randn(tensor.shape, generator=generator) if name.startswith("theta/") else tensor
        for name, tensor in state.items()
    }


@pytest.fixture(scope="module")
def tent():
    return adapters.create("tent")


@pytest.fixture(scope="module")
def initial(tent):
    return tent.init(model().backbone)


def shown():
    return CanaryImages(model().reference, torch.device("cpu"))


@pytest.fixture(scope="module")
def canary(tent, initial):
    return Canary(model().backbone, tent.alone(), shown(), initial)


def test_the_source_reads_as_well_as_itself(canary, initial):
    reading = canary.read(initial)

    assert reading.drop == reading.error == 0
    assert 0.5 < reading.accuracy < 0.95


def test_spoilt_parameters_read_worse(canary, initial):
    drops = [canary.read(spoil_parameters(initial, scale)).drop for scale in (0.1, 0.5, 2.0)]

    assert drops == sorted(drops)
    assert drops[-1] > 0.5


def test_stored_statistics_make_no_difference(canary, initial):
    other = {name: tensor + 1 if name.startswith("stats/") else tensor for name, tensor in initial.items()}

    assert canary.read(other) == canary.read(initial)


def test_each_way_to_spoil_the_images_is_a_part_of_the_work(tent, initial, monkeypatch):
    beats = []
    monkeypatch.setattr(canary_module, "beat", lambda: beats.append(1))

    Canary(model().backbone, tent.alone(), shown(), initial).read(initial)

    assert len(beats) == 2 * len(bank(torch.rand(1, 3, 32, 32)))


def test_the_error_is_that_of_the_paired_difference(canary, initial, tent):
    reading = canary.read(spoil_parameters(initial, 0.3))
    right = []
    for state in (initial, spoil_parameters(initial, 0.3)):
        own = dataclasses.replace(tent, stats="batch")
        images, labels = (model().reference.part("canary")[name] for name in ("images", "labels"))
        answers = [
            own.predict(model().backbone, state, (255 * x).round() / 255).logits.argmax(1) == labels
            for x in bank(images / 255).values()
        ]
        right.append(torch.cat(answers).double())

    difference = right[0] - right[1]

    assert reading.drop == pytest.approx(float(difference.mean()))
    assert reading.error == pytest.approx(float(difference.square().mean() / len(difference)) ** 0.5)


def test_the_bank_is_the_same_every_time_and_stays_in_range():
    x = torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))

    one, other = bank(x), bank(x)

    assert len(one) == 6
    assert all(torch.equal(one[way], other[way]) for way in one)
    assert all(spoilt.shape == x.shape and spoilt.min() >= 0 and spoilt.max() <= 1 for spoilt in one.values())
    assert all(not torch.equal(spoilt, x) for spoilt in one.values())


def test_the_bank_is_kept_as_bytes_and_made_once(monkeypatch):
    images, made = shown(), []
    monkeypatch.setattr(canary_module, "bank", lambda x: made.append(x) or bank(x))

    ways = [images.ways for _ in range(2)][1]

    assert len(made) == 1
    assert {way.dtype for way in ways} == {torch.uint8}
    for way, spoilt in zip(ways, bank(made[0]).values(), strict=True):
        assert (way / 255 - spoilt).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("side", [1, 2, 7])
def test_the_bank_takes_small_images(side):
    assert all(spoilt.shape == (2, 1, side, side) for spoilt in bank(torch.rand(2, 1, side, side)).values())


UNJUDGED = {
    "bn": "learns no parameters",
    "lame": "learns no parameters",
    "rotta": "statistics of its stream only",
    "source": "learns no parameters",
}


@pytest.mark.parametrize("name", sorted(set(adapters.names()) - set(UNJUDGED)))
def test_it_judges_adapters_that_learn(name):
    adapter = adapters.create(name)
    initial = adapter.init(model().backbone, model().reference)

    assert not obstacle(adapter, initial, model().reference)
    assert Canary(model().backbone, adapter.alone(), shown(), initial).read(initial).drop == 0


@pytest.mark.parametrize(("name", "why"), UNJUDGED.items())
def test_it_says_which_it_cannot_judge(name, why):
    adapter = adapters.create(name)

    assert why in obstacle(adapter, adapter.init(model().backbone, model().reference), model().reference)


def test_it_needs_canary_images(tent):
    backbone = TorchBackbone(reference_network(), (3, 32, 32))

    assert "no reference bundle" in obstacle(tent, tent.init(backbone), None)
    assert "no reference bundle" in obstacle(tent, tent.init(backbone), bundle(backbone))


def test_networks_without_batch_norm_are_judged_too(tent):
    backbone = TorchBackbone(layer_norm_network(), (3, 32, 32))
    images = {"canary/images": torch.randint(256, (20, 3, 32, 32)), "canary/labels": torch.arange(20) % 10}
    reference = dataclasses.replace(bundle(backbone), tensors=images)
    initial = tent.init(backbone)

    assert not obstacle(tent, initial, reference)
    canary = Canary(backbone, tent.alone(), CanaryImages(reference, backbone.device), initial)

    assert canary.read(initial).drop == 0
