"""Which of torchvision's weights a file holds says how images are prepared and how large they are."""

import hashlib
import importlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from tta_server.models.sources import _INCEPTION, architectures, find
from tta_server.models.weights import load_weights, read_weights

PICTURE = Image.frombytes("RGB", (40, 30), np.random.default_rng(0).bytes(40 * 30 * 3))
PUBLISHED = {  # one of vgg16's is no classifier
    f"{name} {weights.name}": (name, weights)
    for name in architectures()[2:]
    for weights in torchvision.models.get_model_weights(name)
    if weights.meta["categories"]
}


@pytest.mark.parametrize("published", PUBLISHED)
def test_the_preprocessing_of_a_torchvision_file_is_that_of_its_weights(published):
    name, weights = PUBLISHED[published]
    found = find(name, Path(f"/weights/{weights.url.rpartition('/')[2]}"))

    pixels = torch.from_numpy(found.preprocess(PICTURE)).float() / 255

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (found.preprocess.mean, found.preprocess.std))
    assert_close((pixels - mean) / std, weights.transforms()(PICTURE))
    assert (found.caution, found.form) == ("", "")


# Other networks take images of any size, or have one for all their weights.
@pytest.mark.parametrize("published", [each for each in PUBLISHED if each.startswith(("vit_h_14", "vit_b_16"))])
def test_a_torchvision_network_is_made_for_images_as_they_are_prepared(published):
    name, weights = PUBLISHED[published]
    found = find(name, Path(weights.url))

    with torch.device("meta"):
        assert found.build(3)(torch.empty(1, *found.preprocess.input_shape)).shape == (1, 3)


@pytest.mark.parametrize("name", sorted(_INCEPTION))
def test_of_a_network_that_torchvision_builds_otherwise_for_its_own_weights_it_is_said(tmp_path, name):
    for file in (None, tmp_path / "mine.pth"):
        form = find(name, file).form
        assert "built as torchvision's own weights are used, with transform_input=True" in form
        assert f"take 'torchvision.models:{name}' and say so in model.arguments" in form


def test_renamed_weights_are_known_by_what_is_in_them_and_others_taken_for_the_usual_with_a_word(tmp_path, monkeypatch):
    file, name = tmp_path / "mine.pth", "mobilenet_v2"
    file.write_bytes(b"other weights")
    known = hashlib.sha256(b"published weights").hexdigest()
    monkeypatch.setattr("tta_server.models.sources._mark", lambda each: known[:8] if each.name.endswith("V1") else "7e")

    unknown = find(name, file)
    assert unknown.preprocess == find(name).preprocess
    assert "as for torchvision's IMAGENET1K_V2" in unknown.caution
    assert f"have the file's name hold '{known[:8]}' (IMAGENET1K_V1), or set model.preprocess" in unknown.caution
    file.write_bytes(b"published weights")
    for each in (file, Path(f"no/{known[:8]}-tuned.safetensors")):
        assert (find(name, each).preprocess.resize, find(name, each).caution) == (256, "")
    assert find(name).preprocess.resize == 232


# What torchvision's own loading makes of names in published files, by the module of the networks.
OLDER: dict[str, Callable[[str], str]] = {
    "densenet": lambda name: re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", name),
    "vision_transformer": lambda name: name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."),
}
SMALL: dict[str, Callable[[int], nn.Module]] = {
    "densenet": lambda classes: torchvision.models.DenseNet(4, (2, 2), 8, num_classes=classes),
    "vision_transformer": lambda classes: torchvision.models.VisionTransformer(
        32, 16, 2, 2, 8, 16, num_classes=classes
    ),
}
HOMES = {name: torchvision.models.get_model_builder(name).__module__.split(".")[-1] for name in architectures()[2:]}


def older(network: nn.Module, kind: str) -> dict[str, Tensor]:
    """Return the tensors of a network as a published file has them, without the counters that are newer than it."""
    state = network.state_dict()
    return {OLDER[kind](name): tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def test_it_is_known_whose_names_torchvision_changes_as_it_reads_a_file():
    changing = re.compile("_load_from_state_dict|load_state_dict_pre_hook|def _load_state_dict|re.compile")
    homes = {home: Path(importlib.import_module(f"torchvision.models.{home}").__file__) for home in HOMES.values()}

    # MNASNet changes the layers of its first version, of which no file is published, and no name.
    assert {home for home, file in homes.items() if changing.search(file.read_text())} == {*OLDER, "mnasnet"}


@pytest.mark.parametrize("name", [name for name, home in HOMES.items() if home in OLDER])
def test_every_network_takes_the_names_that_published_files_of_it_have(name):
    with torch.device("meta"):
        network = find(name, Path("/none")).build(None)

    state = older(network, HOMES[name])

    assert not state.keys() <= network.state_dict().keys()
    load_weights(network, state, "published.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", OLDER)
def test_a_file_of_older_names_becomes_the_network_that_it_was(kind, suffix, tmp_path):
    network, other, file = SMALL[kind](3), SMALL[kind](3), tmp_path / f"older.{suffix}"
    trained = {f"module.{name}": torch.rand_like(tensor) for name, tensor in older(network, kind).items()}
    torch.save(trained, file) if suffix == "pth" else save_file(trained, file)

    load_weights(other, read_weights(file), str(file))

    assert {f"module.{name}": tensor.tolist() for name, tensor in older(other, kind).items()} == {
        name: tensor.tolist() for name, tensor in trained.items()
    }


@pytest.mark.parametrize("kind", OLDER)
def test_of_older_names_the_number_of_classes_is_what_does_not_fit(kind):
    with pytest.raises(ValueError, match=r"has shape \(3, \d+\), expected \(9, \d+\); check the number of classes"):
        load_weights(SMALL[kind](9), older(SMALL[kind](3), kind), "w.pth")
