"""The wide network has RobustBench's layout and computes what it does."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from tta_server.models import load
from tta_server.models.wide_resnet import CIFAR10_LABELS, WideResNet

BLOCK_NAMES = ("bn1.weight", "bn1.bias", "conv1.weight", "bn2.weight", "bn2.bias", "conv2.weight")


def published_names(blocks: int) -> set[str]:
    """Return the parameters of RobustBench's `WideResNet`."""
    names = {"conv1.weight", "bn1.weight", "bn1.bias", "fc.weight", "fc.bias"}
    for stage in (1, 2, 3):
        names.add(f"block{stage}.layer.0.convShortcut.weight")
        names |= {f"block{stage}.layer.{block}.{name}" for block in range(blocks) for name in BLOCK_NAMES}
    return names


def small() -> WideResNet:
    """Return a network with one shortcut and one plain block a stage, whose normalisation is not the identity."""
    torch.manual_seed(0)
    network = WideResNet(depth=16, widen=2).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean):
                nn.init.normal_(tensor, std=0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return network


def reference(weights: dict[str, torch.Tensor], x: torch.Tensor, blocks: int) -> torch.Tensor:
    """Compute the network's answer from its state dict alone."""

    def active(path: str, values: torch.Tensor) -> torch.Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(values, *(weights[f"{path}.{key}"] for key in keys)).relu()

    x = functional.conv2d(x, weights["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in range(blocks):
            path, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            pre = active(f"{path}.bn1", x)
            inner = functional.conv2d(pre, weights[f"{path}.conv1.weight"], stride=stride, padding=1)
            inner = functional.conv2d(active(f"{path}.bn2", inner), weights[f"{path}.conv2.weight"], padding=1)
            shortcut = weights.get(f"{path}.convShortcut.weight")
            x = inner + (x if shortcut is None else functional.conv2d(pre, shortcut, stride=stride))
    pooled = functional.avg_pool2d(active("bn1", x), 8).flatten(1)
    return functional.linear(pooled, weights["fc.weight"], weights["fc.bias"])


def test_the_names_are_those_of_the_published_checkpoints():
    with torch.device("meta"):
        network = WideResNet()

    assert {name for name, _ in network.named_parameters()} == published_names(blocks=4)
    assert sum(parameter.numel() for parameter in network.parameters()) == 36_479_194  # the 36.5 M of the paper
    assert network.block3.layer[0].conv1.weight.shape == (640, 320, 3, 3)


def test_it_computes_what_its_weights_say():
    network = small()
    x = torch.rand(3, 3, 32, 32)

    assert_close(network(x), reference(network.state_dict(), x, blocks=2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [4, 27, 0])
def test_a_depth_that_no_such_network_has_is_refused(depth):
    with pytest.raises(ValueError, match="depth must be 6 n"):
        WideResNet(depth=depth)


def test_a_checkpoint_in_that_layout_is_served(tmp_path, monkeypatch):
    # The real one has 146 MB; the architecture is swapped for a narrow one of the same layout.
    monkeypatch.setattr("tta_server.models.sources.WideResNet", lambda classes: WideResNet(16, 2, classes))
    network, path = small(), tmp_path / "Standard.pt"
    wrapped = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 200, "state_dict": wrapped}, path)

    model = load("wrn-28-10", weights=path)

    x = torch.rand(2, 3, 32, 32)
    assert_close(model.backbone.forward(x).logits, network(x))  # images in [0, 1], not normalised
    assert model.labels == CIFAR10_LABELS
    assert model.preprocess.input_shape == (3, 32, 32)
    assert {"batchnorm", "norm_affine"} <= model.backbone.spec.capabilities


def test_the_full_network_is_built_under_its_name(tmp_path):
    path = tmp_path / "Standard.pt"
    torch.manual_seed(0)
    torch.save(WideResNet().state_dict(), path)

    model = load("wrn-28-10", weights=path)

    path.unlink()  # 146 MB
    assert (model.backbone.spec.classes, model.backbone.spec.features) == (10, 640)


def test_without_weights_it_is_refused():
    with pytest.raises(ValueError, match="'wrn-28-10' needs a local weights file"):
        load("wrn-28-10")
