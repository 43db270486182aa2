import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.testing import assert_close

from tests.networks import reference_network
from tests.tta_server.runtime.fakes import Tiny, tiny
from tests.tta_server.runtime.fakes import rows as pictures
from tta_server import adapters
from tta_server.adapters.vida import Vida
from tta_server.app import build, load_model
from tta_server.calibrate import calibrate_command, shrinkage
from tta_server.calibrate.bundle import Sizes, calibrate
from tta_server.calibrate.null import Windows
from tta_server.evaluate.corruptions import corrupt
from tta_server.guard.drift import SourceStatistics, image_scores, norm_scores, window_scores
from tta_server.models import Reference, TorchBackbone, glyphs, load, load_reference
from tta_server.settings import load_settings

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

    assert told == {"source answers": 1, "Fisher weights": 1, "windows without drift": 1}


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


# Features
def test_the_shrunk_covariance_is_that_of_the_paper():
    features = np.random.default_rng(0).normal(size=(12, 5)) @ np.random.default_rng(1).normal(size=(5, 5))
    centred = features - features.mean(0)
    sample = centred.T @ centred / 12
    scale = np.trace(sample) / 5
    spread = sum(np.linalg.norm(np.outer(row, row) - sample) ** 2 for row in centred) / 12**2
    share = min(spread / np.linalg.norm(sample - scale * np.eye(5)) ** 2, 1)

    found, shrinkage_ = shrinkage.ledoit_wolf(torch.from_numpy(features))

    assert 0 < share < 1
    assert shrinkage_ == pytest.approx(share)
    assert_close(found, torch.from_numpy((1 - share) * sample + share * scale * np.eye(5)))


def test_more_features_than_images_still_have_a_precision():
    features = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))

    _, precision = shrinkage.gaussian(features)

    assert precision.isfinite().all()
    assert (torch.linalg.eigvalsh(precision) > 0).all()


def test_features_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="do not vary"):
        shrinkage.gaussian(torch.ones(20, 3))


def test_held_out_distances_are_those_of_fresh_images():
    generator = torch.Generator().manual_seed(0)
    fitted, fresh = (torch.randn(200, 60, generator=generator) * torch.arange(1, 61) for _ in range(2))
    mean, precision = shrinkage.gaussian(fitted)

    flattered = shrinkage.mahalanobis(fitted.double(), mean, precision).mean()
    honest = shrinkage.held_out_distances(fitted).mean()
    expected = shrinkage.mahalanobis(fresh.double(), mean, precision).mean()

    assert honest.item() == pytest.approx(expected.item(), rel=0.05)
    assert flattered < 0.95 * expected


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

    lowest, highest = (
        {score: model.reference.tensors[f"null/{score}_64"][end].item() for score in clean} for end in (0, -1)
    )

    # Noise makes this network answer one class with much energy: a score may leave its range on either side.
    for score in ("energy_shift_sigmas", "norm_w2_mean", "norm_kl_mean"):
        assert lowest[score] <= clean[score] <= highest[score]
        assert not lowest[score] <= drifted[score] <= highest[score]


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
        (lambda x, y: (x[:10], y[:10]), "part 'fisher' needs at least 64 labelled images, got 10"),
        (lambda x, y: (x[:0], y[:0]), "part 'fisher' needs at least 64 labelled images, got 0"),
        (lambda x, y: (x[y != 3], y[y != 3]), "at least 2 images of each class, but class 3 has 0; 1 of 4"),
        (lambda x, y: (x, y[:-1]), "labels have shape"),
        (lambda x, y: (x, y + 1), "labels go from 1 to 4, expected indices of 4 classes"),
        (lambda x, y: (x / 255, y), "images are float64"),
        (lambda x, y: (x[:, :, :4], y), r"expected uint8 \(N, "),
    ],
)
def test_data_that_do_not_fit_are_refused(backbone, images, change, message):
    with pytest.raises(ValueError, match=message):
        calibrate(backbone, *change(images, LABELS), sizes=SMALL)


def test_the_largest_window_says_how_wide_images_it_needs(backbone, images):
    with pytest.raises(ValueError, match="part 'null' needs at least 256 labelled images, got 200"):
        calibrate(backbone, images, LABELS)


# The command
CONFIG = {
    "model": {
        "architecture": "tests.tta_server.runtime.fakes:Tiny",
        "preprocess": {"size": [8, 8]},
        "labels": [f"class {label}" for label in range(4)],
        "device": "cpu",
    }
}


@pytest.fixture
def options(tmp_path: Path):
    """A function from arguments to parsed options for a tiny network of four classes."""
    torch.save(Tiny().state_dict(), tmp_path / "tiny.pth")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    parser = argparse.ArgumentParser()
    calibrate_command.add_arguments(parser)
    fixed = ["--config", str(tmp_path / "model.yaml"), "--weights", str(tmp_path / "tiny.pth")]
    fixed += ["--forward-images", "1", "--without-vida"]
    return lambda *arguments: parser.parse_args([*fixed, *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder a class, 65 images each."""
    for index, image in enumerate(pictures(260)):
        path = tmp_path / "data" / f"class {index // 65}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return tmp_path / "data"


def test_a_folder_and_a_packed_file_of_the_same_images_give_one_bundle(options, folder, tmp_path, capsys):
    np.savez(tmp_path / "d.npz", images=pictures(260), labels=np.arange(4).repeat(65))

    for name, data in (("one", folder), ("two", tmp_path / "d.npz")):
        assert calibrate_command.run(options("--data", data, "--out", tmp_path / f"{name}.safetensors")) == 0

    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    printed = capsys.readouterr().out
    assert "260 source images, source accuracy" in printed
    assert all(part in printed for part in ("fisher", "memory", "canary", "null_moments"))


def test_the_bundle_goes_next_to_the_weights_and_is_found_there(options, folder, tmp_path):
    calibrate_command.run(options("--data", folder))
    calibrate_command.run(options("--data", folder))  # an older bundle is in nobody's way

    model = load_model(load_settings(tmp_path / "model.yaml", {"model": {"weights": tmp_path / "tiny.pth"}}).model)

    assert (tmp_path / "tiny.reference.safetensors").is_file()
    assert model.reference is not None
    assert model.reference.about["model"] == "Tiny"


def test_a_bundle_of_older_weights_is_replaced(options, folder, tmp_path):
    calibrate_command.run(options("--data", folder))
    torch.save(Tiny().state_dict(), tmp_path / "tiny.pth")
    section = load_settings(tmp_path / "model.yaml", {"model": {"weights": tmp_path / "tiny.pth"}}).model
    with pytest.raises(ValueError, match="was made with weights"):
        load_model(section)

    calibrate_command.run(options("--data", folder))

    assert load_model(section).reference is not None


def test_fewer_images_are_read_than_there_are(options, folder, tmp_path):
    out = tmp_path / "r.safetensors"

    with pytest.raises(ValueError, match="part 'null' needs at least 256 labelled images, got 48"):
        calibrate_command.run(options("--data", folder, "--out", out, "--limit", 50))

    assert not out.exists()


def test_a_folder_that_is_no_class_of_the_model_is_refused(options, folder, tmp_path):
    (folder / "class 3").rename(folder / "tench")

    with pytest.raises(ValueError, match=r"folder 'tench' .* is no label of the model.*start with 'class 0'"):
        calibrate_command.run(options("--data", folder, "--out", tmp_path / "r.safetensors"))


def test_images_without_class_folders_are_refused(options, tmp_path):
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "a.png")

    with pytest.raises(ValueError, match="calibration needs labelled images: one folder for each class"):
        calibrate_command.run(options("--data", tmp_path / "flat", "--out", tmp_path / "r.safetensors"))


def test_a_damaged_image_is_named(options, folder, tmp_path):
    (folder / "class 3" / "200.png").write_bytes(b"no picture")

    with pytest.raises(ValueError, match=r"image '.*200\.png' cannot be read"):
        calibrate_command.run(options("--data", folder, "--out", tmp_path / "r.safetensors"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((3, 3, 8, 8), np.uint8)}, "calibration needs both"),
        ({"images": np.zeros((3, 3, 8, 8)), "labels": np.zeros(3, int)}, "expected uint8"),
        ({"images": np.zeros((3, 3, 8, 8), np.uint8), "labels": np.zeros(4, int)}, r"expected integers \(3,\)"),
        ({"images": np.zeros((3, 3, 8, 8), np.uint8), "labels": np.full(3, 4)}, "indices of 4 classes"),
        ({"images": np.zeros((3, 3, 9, 9), np.uint8), "labels": np.zeros(3, int)}, r"the model takes \(3, 8, 8\)"),
    ],
)
def test_packed_data_that_do_not_fit_are_refused(options, tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)

    with pytest.raises(ValueError, match=message):
        calibrate_command.run(options("--data", tmp_path / "d.npz", "--out", tmp_path / "r.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "glyphs"], "embedded images show 36 characters, but the model has 4 other labels"),
        (["--data", "nowhere"], "neither a folder nor a file"),
        (["--data", "nowhere", "--batch", "0"], "must be at least 1"),
        (["--data", __file__], "is no packed data"),
    ],
)
def test_wrong_arguments_are_refused(options, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        calibrate_command.run(options(*arguments, "--out", tmp_path / "r.safetensors"))


def test_where_the_bundle_goes_is_known_before_the_work(options, tmp_path):
    without = options("--data", "glyphs")
    without.weights = None

    with pytest.raises(ValueError, match="no weights file to put the bundle next to; give --out"):
        calibrate_command.run(without)
    with pytest.raises(ValueError, match="does not exist"):
        calibrate_command.run(options("--data", "glyphs", "--out", tmp_path / "no" / "r.safetensors"))


# The server
@pytest.mark.parametrize("name", BUNDLED)
def test_the_server_starts_adapters_from_the_bundle(name):
    service = build(load_settings(overrides={"adapter": {"name": name}, "model": {"device": "cpu"}}))

    assert service.model.reference is not None


@pytest.mark.parametrize(
    ("name", "part"),
    [(name, need.removeprefix("reference.")) for name, needs in BUNDLED.items() for need in needs if "." in need],
)
def test_the_server_refuses_to_start_without_the_part_and_names_the_command(options, name, part):
    settings = load_settings(options("--data", "x").config, {"adapter": {"name": name}})

    with pytest.raises(ValueError, match=rf"needs reference\.{part}, .* 'tta-server calibrate"):
        build(settings)
