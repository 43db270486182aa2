import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.networks import reference_network
from tests.tta_server.runtime.fakes import rows as pictures
from tests.tta_server.runtime.fakes import tiny
from tta_server import adapters
from tta_server.adapters.vida import Vida
from tta_server.calibrate.bundle import Sizes, calibrate
from tta_server.calibrate.null import Windows
from tta_server.drift.scores import SourceStatistics, image_scores, norm_scores, window_scores
from tta_server.evaluate.corruptions import corrupt
from tta_server.models import Reference, TorchBackbone, glyphs, load, load_reference

SMALL = Sizes(memory_rows=40, canary_rows=20, windows=Windows((8, 16), draws=50, forward_images=80))


LABELS = np.arange(200) % 4


@pytest.fixture(scope="module")
def backbone() -> TorchBackbone:
    return tiny()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """200 images (200, 3, 8, 8), each of another brightness and colour."""
    tint = np.random.default_rng(1).uniform(0, 1, (200, 3, 1, 1))
    return (pictures(200) * tint).astype(np.uint8)


@pytest.fixture(scope="module")
def wide_images() -> np.ndarray:
    """64 images (64, 3, 32, 32)."""
    return np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)


@pytest.fixture(scope="module")
def reference(backbone: TorchBackbone, images: np.ndarray) -> Reference:
    return calibrate(backbone, images, LABELS, sizes=SMALL)


def equal(one: Reference, other: Reference) -> bool:
    return one.about == other.about and {n: t.numpy().tobytes() for n, t in one.tensors.items()} == {
        n: t.numpy().tobytes() for n, t in other.tensors.items()
    }


# The whole
def test_two_runs_give_equal_tensors(reference, backbone, images):
    assert equal(calibrate(backbone, images, LABELS, sizes=SMALL), reference)


def test_another_seed_draws_others(reference, backbone, images):
    other = calibrate(backbone, images, LABELS, sizes=SMALL, seed=1)

    assert not torch.equal(other.tensors["canary/images"], reference.tensors["canary/images"])
    assert set(other.tensors) == set(reference.tensors)


def test_the_bundle_survives_a_file(reference, backbone, tmp_path):
    reference.save(tmp_path / "r.safetensors")

    assert equal(load_reference(tmp_path / "r.safetensors", backbone), reference)


def test_calibrating_changes_neither_backbone_nor_images(backbone, images):
    before = images.tobytes(), LABELS.tobytes()

    calibrate(backbone, images, LABELS, sizes=SMALL)

    assert backbone.digest() == backbone.spec.digest
    assert (images.tobytes(), LABELS.tobytes()) == before


def test_every_part_is_announced(backbone, images):
    told = {}

    calibrate(
        backbone, images, LABELS, sizes=SMALL, progress=lambda what, done, total: told.update({what: done / total})
    )

    styles = "styles", "styles of spoilt images", "shares of the source's statistics"
    assert told == dict.fromkeys(("source answers", "Fisher weights", "windows without drift", *styles), 1)


# Those that cannot start without one.
NEEDS = {name: adapters.create(name).requires for name in adapters.names()}
BUNDLED = {name: needs for name, needs in NEEDS.items() if any(need.startswith("reference.") for need in needs)}


def test_adapters_start_from_the_bundle(reference, backbone, images):
    for name in BUNDLED:
        adapter = adapters.create(name)
        adapters.base.check(adapter, backbone, reference)

        step = adapter.adapt(backbone, adapter.init(backbone, reference), torch.from_numpy(images) / 255)

        assert step.output.logits.isfinite().all()


# What adapters make
def test_a_network_without_batch_norm_has_fisher_weights_but_no_scores_of_such_layers(layer_norm_backbone, wide_images):
    found = calibrate(layer_norm_backbone, wide_images, np.arange(64) % 10, sizes=SMALL)

    assert set(found.part("fisher")) == set(layer_norm_backbone.norm_affine())
    assert not any(name.startswith("norm_") for name in found.part("null"))


# Memory and canary
def test_the_memory_is_balanced_and_holds_features_of_its_labels(reference, backbone, images):
    memory = reference.part("memory")
    features = backbone.forward(torch.from_numpy(images) / 255).features

    nearest = torch.cdist(memory["features"], features).argmin(1)

    assert torch.bincount(memory["labels"]).tolist() == [10] * 4
    assert memory["labels"].tolist() == LABELS[nearest].tolist()
    assert_close(memory["features"], features[nearest], atol=1e-5, rtol=1e-5)  # other batches, other sums


def test_no_canary_is_remembered(reference, backbone):
    canary = backbone.forward(reference.tensors["canary/images"] / 255).features

    distances = torch.cdist(canary, reference.tensors["memory/features"])

    assert torch.bincount(reference.tensors["canary/labels"]).tolist() == [5] * 4
    assert distances.min() > 1e-5


def test_of_more_classes_than_canaries_some_are_drawn(backbone, images):
    sizes = Sizes(memory_rows=1, canary_rows=3, windows=SMALL.windows)

    found = calibrate(backbone, images, LABELS, sizes=sizes)

    assert len(set(found.tensors["canary/labels"].tolist())) == 3
    assert sorted(found.tensors["memory/labels"].tolist()) == list(range(4))


# Null distributions
def test_the_quantiles_of_every_score_rise_and_hold_its_mean(reference):
    null, about = reference.part("null"), reference.part("null_moments")

    assert set(null) == set(about)
    assert {name.rpartition("_")[2] for name in null} == {"8", "16"}
    for name, quantiles in null.items():
        mean, deviation = about[name]
        assert (quantiles.diff() >= 0).all()
        assert quantiles[0] - 1e-6 <= mean <= quantiles[-1] + 1e-6
        assert deviation >= 0


def test_larger_windows_of_source_images_scatter_less(reference):
    for name in ("entropy_ratio", "energy_shift_sigmas", "feature_distance_ratio", "norm_w2_mean"):
        small, large = (reference.tensors[f"null_moments/{name}_{size}"][1] for size in (8, 16))
        assert large < small


def scores(model, images: np.ndarray) -> dict[str, float]:
    x = torch.from_numpy(images) / 255
    source, output = SourceStatistics.of(model.reference), model.backbone.forward(x)
    found = window_scores(image_scores(output.logits, output.features, source), source)
    moments = model.backbone.forward(x, statistics="batch").moments
    return {name: v.item() for name, v in (found | norm_scores(moments, model.backbone.norm_stats())).items()}


@pytest.mark.parametrize("name", ["gaussian_noise", "defocus_blur", "contrast"])
def test_the_embedded_bundle_tells_corrupted_images_from_source_images(name):
    model = load("glyphs")
    pixels = glyphs.images("source")[0][:64]

    clean, drifted = scores(model, pixels), scores(model, corrupt(pixels, name, 5))

    # Noise makes this network answer one class with much energy: a score may leave its range on either side.
    for score in ("energy_shift_sigmas", "norm_w2_mean", "norm_kl_mean"):
        lowest, *_, highest = model.reference.tensors[f"null/{score}_64"].tolist()
        assert lowest <= clean[score] <= highest
        assert not lowest <= drifted[score] <= highest


# ViDA
def test_training_adapters_lowers_the_loss_and_vida_starts_from_them(wide_images, monkeypatch):
    monkeypatch.setattr("tta_server.adapters.vida.STEPS", 4)
    backbone, labels = TorchBackbone(reference_network(), (3, 32, 32)), np.arange(64) % 10
    adapter = Vida(seed=3)

    found, again = (calibrate(backbone, wide_images, labels, sizes=SMALL, methods=[adapter]) for _ in range(2))

    def loss(state) -> float:
        logits = adapter.predict(backbone, state, torch.from_numpy(wide_images) / 255).logits
        return torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item()

    assert loss(adapter.init(backbone, found)) < loss(adapter.init(backbone))
    assert equal(again, found)


def test_a_network_without_a_layer_for_adapters_gets_none(backbone, images):
    found = calibrate(backbone, images, LABELS, sizes=SMALL, methods=[Vida()])

    assert "vida" not in found.parts


# What is refused
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:0], y[:0]), "cannot be made of no images"),
        (lambda x, y: (x, y[:-1]), "labels have shape"),
        (lambda x, y: (x, y + 1), "labels go from 1 to 4, expected indices of 4 classes"),
        (lambda x, y: (x / 255, y), "images are float64"),
        (lambda x, y: (x[:, :, :4], y), r"expected uint8 \(N, "),
    ],
)
def test_data_that_do_not_fit_are_refused(backbone, images, change, message):
    with pytest.raises(ValueError, match=message):
        calibrate(backbone, *change(images, LABELS), sizes=SMALL)
