"""A server of an ONNX file, this server's or torch's own, with its bundle."""

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from tests.server import running
from tests.tta_server.calls import infer, said, stream, until
from tta_server.cli import main
from tta_server.models import glyphs
from tta_server.models.onnx_export import KEY
from tta_server.models.weights import load_weights, read_weights

ROWS = 16


def foreign(path: Path) -> None:
    """Write the embedded network as others would: torch's own exporter, which says nothing of images and classes."""
    network = glyphs.build()
    load_weights(network, read_weights(glyphs.WEIGHTS), "glyphs")
    model = nn.Sequential(network, nn.Softmax(1)).eval()
    names = {"input_names": ["pixels"], "output_names": ["scores"], "dynamic_shapes": ({0: "n"},)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own functions
        torch.onnx.export(model, (torch.rand(2, *glyphs.INPUT_SHAPE),), path, dynamo=True, verbose=False, **names)
    assert not [entry for entry in onnx.load(path).metadata_props if entry.key == KEY]


@pytest.fixture(scope="module", params=["written by this server", "written by others"])
def owned(request, tmp_path_factory):
    """A server of a file, and its folder."""
    folder = tmp_path_factory.mktemp("own")
    path = folder / "source.onnx"
    config = {
        "model": {"architecture": str(path), "name": "glyphs", "device": "cpu", "runtime": "auto"},
        "adapter": {"name": "source"},
        "engine": {"max_rows": ROWS, "window_rows": ROWS, "threads": 1},
    }
    if request.param == "written by others":
        foreign(path)
        size = list(glyphs.INPUT_SHAPE[1:])
        config["model"] |= {"preprocess": {"size": size, "mean": list(glyphs.MEAN), "std": list(glyphs.STD)}}
        config["model"] |= {"labels": list(glyphs.LABELS)}
    else:
        assert main(["export", "--device", "cpu", "--out", str(folder)]) == 0
    (folder / "own.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    made = ["calibrate", "--config", str(folder / "own.yaml"), "--data", "glyphs", "--limit", "360"]
    assert main([*made, "--forward-images", "0"]) == 0
    with running(folder, config) as server:
        yield server, folder


def started(folder: Path) -> str:
    return " ".join((folder / "server.log").read_text().split())


@pytest.mark.parametrize("name", ["source", "lame", "adanpc"])
def test_a_file_of_ones_own_is_served_by_whatever_needs_features_only(owned, name):
    server, _ = owned
    images, classes = (part[:ROWS] for part in glyphs.images("test"))
    infer(server.client, name, images)

    server.client.patch(f"/v1/streams/{name}", json={"adapter": {"name": name, "settings": {}}}).raise_for_status()
    probabilities = np.reshape(said(infer(server.client, name, images))[0], (ROWS, len(glyphs.LABELS)))

    assert (probabilities.argmax(1) == classes).sum() >= ROWS - 2
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    if name == "adanpc":
        until(lambda: stream(server.client, name)["state_version"] > 0)


def test_a_picture_of_another_size_is_named(owned):
    server, _ = owned
    images, classes = glyphs.images("test")
    picture = io.BytesIO()
    Image.fromarray(images[0].transpose(1, 2, 0)).resize((96, 96), Image.Resampling.BICUBIC).save(picture, "PNG")

    answer = server.client.post("/predict", content=picture.getvalue())

    assert answer.json()["predictions"][0]["label"] == glyphs.LABELS[classes[0]]


def test_everything_else_is_refused_with_the_reason_and_what_the_bundle_lacks_is_said(owned):
    server, folder = owned

    refused = server.client.patch("/v1/streams/other", json={"adapter": {"name": "tent", "settings": {}}})

    assert refused.status_code == 400
    assert "needs grad, which backbone 'source' does not have; use one that needs less" in refused.text
    told = started(folder)
    assert "onnx: the model is a file of it" in told
    assert "no style (needs a normalisation layer" in told
    assert "learn in the shadow" not in told  # the adapter learns nothing
    assert "nothing in it can be moved" in told
