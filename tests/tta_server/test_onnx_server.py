"""A server of a user's own ONNX file, with its bundle."""

from pathlib import Path

import numpy as np
import pytest

from tests.server import running
from tests.tta_server.calls import infer, said, stream, until
from tta_server.cli import main
from tta_server.models import glyphs

ROWS = 16


@pytest.fixture(scope="module")
def owned(tmp_path_factory):
    """A server of an exported file, and its folder."""
    folder = tmp_path_factory.mktemp("own")
    assert main(["export", "--device", "cpu", "--out", str(folder)]) == 0
    path = folder / "source.onnx"
    made = ["calibrate", "--model", str(path), "--device", "cpu", "--data", "glyphs", "--limit", "360"]
    assert main([*made, "--forward-images", "0"]) == 0
    config = {
        "model": {"architecture": str(path), "name": "glyphs", "device": "cpu", "runtime": "auto"},
        "adapter": {"name": "source"},
        "engine": {"max_rows": ROWS, "window_rows": ROWS, "threads": 1},
    }
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
    if name == "adanpc":
        until(lambda: stream(server.client, name)["state_version"] > 0)


def test_everything_else_is_refused_with_the_reason_and_what_the_bundle_lacks_is_said(owned):
    server, folder = owned

    refused = server.client.patch("/v1/streams/other", json={"adapter": {"name": "tent", "settings": {}}})

    assert refused.status_code == 400
    assert "needs grad, which backbone 'source' does not have; use one that needs less" in refused.text
    told = started(folder)
    assert "onnx: the model is a file of it" in told
    assert "no style (needs a normalisation layer" in told
    assert "nothing in it can be moved" in told
