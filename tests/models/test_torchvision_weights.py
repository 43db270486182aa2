"""Which of torchvision's weights a file holds says how images are prepared and how large they are."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.testing import assert_close

from tta_server.models.sources import _INCEPTION, architectures, default_preprocess, find

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
    assert unknown.preprocess == default_preprocess(name)
    assert "as for torchvision's IMAGENET1K_V2" in unknown.caution
    assert f"have the file's name hold '{known[:8]}' (IMAGENET1K_V1), or set model.preprocess" in unknown.caution
    file.write_bytes(b"published weights")
    for each in (file, Path(f"no/{known[:8]}-tuned.safetensors")):
        assert (find(name, each).preprocess.resize, find(name, each).caution) == (256, "")
    assert default_preprocess(name).resize == 232
