"""A model that is not the embedded one."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from tests.server import running
from tests.tta_server.pictures import encoded, scene
from tta_server.models.sources import find


def test_a_network_of_torchvision_is_served_from_a_weights_file(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    weights = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), weights)
    config = {
        "model": {"architecture": "resnet18", "weights": str(weights), "device": "cpu"},
        "engine": {"max_rows": 2, "max_queue_rows": 8, "window_rows": 2},
    }
    image = scene(300, 260)

    with running(tmp_path, config) as server:
        response = server.client.post("/predict?top_k=1000", content=encoded(image))
        metadata = server.client.get("/v2/models/resnet18").json()

    answer = response.json()
    assert response.status_code == 200, answer
    assert metadata["inputs"][0]["shape"] == [-1, 3, 224, 224]
    assert expected_of(network, image) == pytest.approx(in_order(answer), abs=1e-4)  # other kernels, other rounding


def in_order(answer: dict) -> list[float]:
    top = answer["predictions"][0]["top"]
    return [each["probability"] for each in sorted(top, key=lambda each: each["index"])]


def expected_of(network: torch.nn.Module, image: object) -> list[float]:
    preprocess = find("resnet18").preprocess
    x = torch.from_numpy(preprocess(image)).float()[None] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    with torch.no_grad():
        return network((x - mean) / std).softmax(1)[0].tolist()
