import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from tests.networks import layer_norm_network
from tta_server import adapters
from tta_server.adapters.base import check
from tta_server.models import Preprocess, Reference, TorchBackbone, glyphs, load, load_reference
from tta_server.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from tta_server.models.reference import PREPROCESS, beside


@pytest.fixture
def reference(backbone: TorchBackbone) -> Reference:
    tensors = {
        "memory/features": torch.arange(12.0).view(3, 4).T,  # not contiguous
        "memory/labels": torch.tensor([0, 1, 2, 2]),
        "canary/images": torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        "atc/threshold": torch.tensor(0.5),
    }
    return Reference(backbone.spec.digest, tensors, {"accuracy": 0.9, "levels": [0.5, 0.9]})


@pytest.fixture
def path(reference: Reference, tmp_path: Path) -> Path:
    reference.save(tmp_path / "reference.safetensors")
    return tmp_path / "reference.safetensors"


def test_a_bundle_survives_being_written_and_read(reference, path, backbone):
    found = load_reference(path, backbone)

    assert found.digest == reference.digest
    assert found.about == reference.about
    assert found.parts == {"memory", "canary", "atc"}
    assert set(found.tensors) == set(reference.tensors)
    for name, tensor in reference.tensors.items():
        assert_close(found.tensors[name], tensor, atol=0, rtol=0)


def test_equal_bundles_are_equal_files(reference, path, tmp_path):
    reference.save(tmp_path / "again.safetensors")

    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_writing_again_leaves_nothing_beside_the_bundle(reference, path):
    reference.save(path)

    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_part_is_named_without_its_prefix(reference):
    assert set(reference.part("memory")) == {"features", "labels"}


def test_a_missing_part_names_the_command(reference):
    with pytest.raises(ValueError, match="no part 'fisher'; make it with 'tta-server calibrate'"):
        reference.part("fisher")


def test_a_bundle_of_other_weights_is_refused(path):
    other = TorchBackbone(layer_norm_network(), (3, 32, 32), name="other")

    with pytest.raises(ValueError, match=r"was made with weights .* but model 'other' has .*; make it again"):
        load_reference(path, other)


def test_a_bundle_that_was_made_by_another_preprocessing_is_refused(reference, backbone, tmp_path):
    made, path = Preprocess((32, 32), mean=IMAGENET_MEAN, std=IMAGENET_STD), tmp_path / "made.safetensors"
    replace(reference, about={**reference.about, PREPROCESS: made.about()}).save(path)

    assert load_reference(path, backbone, made).about["accuracy"] == 0.9
    for other, said in (
        ({"mean": (0.1, 0.1, 0.1)}, r"mean \[0.485, 0.456, 0.406\]"),
        ({"size": (24, 32)}, r"size \[32, 32\], resize \[32, 32\]"),
        ({"resize": (40, 40)}, r"resize \[32, 32\]"),
        ({"interpolation": "bicubic"}, "interpolation bilinear"),
    ):
        with pytest.raises(ValueError, match=rf"another preprocessing, {said}: go back .* 'tta-server calibrate'"):
            load_reference(path, backbone, replace(made, **other))


def test_a_bundle_that_says_nothing_of_the_preprocessing_fits_any(path, backbone):
    assert load_reference(path, backbone, Preprocess((32, 32), mean=IMAGENET_MEAN))


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"mean": (0, 0, 0), "std": [1, 1, 1]}, True),
        ({"resize": (8, 9)}, True),
        ({"odd": "first"}, True),
        ({"resize": (9, 9)}, False),
        ({"resize": 12}, False),
        ({"sixteen_bit": 12}, False),
    ],
)
def test_what_amounts_to_the_same_preprocessing_is_told_alike(given, same):
    assert (Preprocess((8, 9)).about() == Preprocess((8, 9), **given).about()) == same


def test_where_an_odd_number_is_cut_off_counts():
    assert Preprocess((8, 8), resize=9).about() != Preprocess((8, 8), resize=9, odd="first").about()


def test_a_missing_bundle_is_refused(tmp_path, backbone):
    with pytest.raises(ValueError, match=r"no\.safetensors' does not exist; make it with 'tta-server calibrate'"):
        load_reference(tmp_path / "no.safetensors", backbone)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(path, backbone, share):
    path.write_bytes(path.read_bytes()[: int(len(path.read_bytes()) * share)])

    with pytest.raises(ValueError, match="is not a reference bundle, or a damaged one"):
        load_reference(path, backbone)


@pytest.mark.parametrize(
    "header", ["", "[1]", "null", "{}", "no json", "[" * 100_000, '{"schema": 3, "digest": "", "about": 3}']
)
def test_a_file_with_another_header_is_refused(path, backbone, header):
    save_file(load_file(path), path, {"tta_reference": header})

    with pytest.raises(ValueError, match="is not a reference bundle, or a damaged one"):
        load_reference(path, backbone)


def test_the_weights_themselves_are_no_bundle(backbone):
    with pytest.raises(ValueError, match="is not a reference bundle"):
        load_reference(glyphs.WEIGHTS, backbone)


@pytest.mark.parametrize(("schema", "age"), [(1, "an older"), (4, "another"), ("3", "another")])
def test_a_bundle_of_another_version_is_refused(reference, path, backbone, schema, age):
    header = json.dumps({"schema": schema, "digest": reference.digest, "about": {}})
    save_file(load_file(path), path, {"tta_reference": header})

    with pytest.raises(
        ValueError, match=rf"made with {age} version: it has schema {schema}, expected 3; make it again"
    ):
        load_reference(path, backbone)


# Where a model finds its bundle
def test_the_embedded_model_brings_its_own():
    model = load("glyphs")

    assert model.reference is not None
    assert model.reference.digest == model.backbone.spec.digest
    assert load("glyphs", calibrated=False).reference is None


def test_other_weights_find_the_bundle_that_lies_next_to_them(tmp_path):
    weights = tmp_path / "mine.v2.safetensors"
    tensors = load_file(glyphs.WEIGHTS)
    save_file({name: tensor + 0.001 * (name == "fc.bias") for name, tensor in tensors.items()}, weights)
    without = load("glyphs", weights=weights)
    Reference(without.backbone.spec.digest, {"atc/threshold": torch.tensor(0.5)}).save(beside(weights))

    found = load("glyphs", weights=weights)

    assert without.reference is None
    assert found.reference is not None
    assert found.reference.parts == {"atc"}
    assert beside(weights).name == "mine.v2.reference.safetensors"


def test_a_bundle_that_is_named_must_fit(tmp_path, path):
    with pytest.raises(ValueError, match="was made with weights"):
        load("glyphs", reference=path)
    with pytest.raises(ValueError, match="does not exist"):
        load("glyphs", reference=str(tmp_path / "no.safetensors"))


# What adapters make of it
@pytest.mark.parametrize("name", adapters.names())
def test_every_adapter_starts_from_the_embedded_bundle(name):
    model, adapter = load("glyphs"), adapters.create(name)
    check(adapter, model.backbone, model.reference)
    state = adapter.init(model.backbone, model.reference)
    x = torch.from_numpy(glyphs.images("test")[0][:8]) / 255

    step = adapter.adapt(model.backbone, state, x)
    data = adapters.dump_state(adapter, model.backbone, step.state)
    again = adapters.load_state(adapter, model.backbone, data, model.reference)

    assert step.output.logits.isfinite().all()
    assert set(again) == set(step.state)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (name, need.removeprefix("reference."))
        for name in adapters.names()
        for need in adapters.create(name).requires
        if need.startswith("reference.")
    ],
)
def test_an_adapter_that_needs_a_missing_part_is_refused_with_the_command(backbone, reference, name, part):
    adapter = adapters.create(name)
    poor = Reference(reference.digest, {"atc/threshold": torch.tensor(0.5)})

    for bundle in (None, poor):
        with pytest.raises(ValueError, match=f"needs reference.{part}, .*'tta-server calibrate --data DIR'"):
            check(adapter, backbone, bundle)
