"""What answers for a network: what was asked for, or what the bundle is made for, and why."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from tests.models.small import SHAPE, images, small
from tests.networks import reference_network
from tta_server.models import Reference, TorchBackbone
from tta_server.models import answering as module
from tta_server.models.answering import answering
from tta_server.models.backbone import distance
from tta_server.models.onnx_backbone import MOST_APART, OnnxBackbone
from tta_server.models.onnx_export import graphs
from tta_server.models.onnx_graphs import graphs_of

LAYERS = ("bn",)


@pytest.fixture(scope="module")
def torchs() -> TorchBackbone:
    return TorchBackbone(small(), SHAPE, name="small")


def bundle(torchs: TorchBackbone, layers: tuple[str, ...] = ()) -> Reference:
    return Reference(torchs.spec.digest, *graphs(torchs, layers).part())


@pytest.fixture(scope="module")
def made(torchs: TorchBackbone) -> Reference:
    return bundle(torchs, LAYERS)


@pytest.fixture
def exports(made, monkeypatch) -> list[tuple[object, ...]]:
    """What was exported since; `test_onnx_apart.py` tells how."""
    heard: list[tuple[object, ...]] = []
    monkeypatch.setattr(module, "graphs_apart", lambda *given: heard.append(given) or graphs_of(made))
    return heard


@pytest.mark.parametrize("runtime", ["auto", "onnx"])
def test_graphs_of_the_bundle_answer_and_nothing_is_exported(runtime, torchs, made, exports):
    found = answering(torchs, runtime, made)

    assert found.remark.startswith("onnx: ONNX Runtime")
    assert isinstance(found.backbone, OnnxBackbone)
    assert exports == []


def test_without_graphs_auto_is_torch_and_onnx_exports(torchs, exports):
    auto, onnx = (answering(torchs, runtime, None, LAYERS) for runtime in ("auto", "onnx"))

    assert auto.backbone is torchs
    assert auto.remark == "torch: there is no bundle, which may have ONNX graphs"
    assert onnx.remark.startswith("onnx: ONNX Runtime")
    assert exports == [(torchs, LAYERS)]


def test_why_a_bundle_has_no_graphs_is_said(torchs):
    without = Reference(torchs.spec.digest, {}, {"left_out": {"onnx": "network 'small' cannot be exported"}})

    found = answering(torchs, "auto", without)

    assert found == (torchs, "torch: the bundle has no ONNX graphs (network 'small' cannot be exported)")


@pytest.mark.parametrize("damaged", [False, True])
def test_torch_is_torch_whatever_there_is(damaged, torchs, made):
    there = replace(made, about={}) if damaged else made

    assert answering(torchs, "torch", there) == (torchs, "torch")


def test_damaged_graphs_leave_auto_to_torch_and_are_told_of(torchs, made, caplog):
    found = answering(torchs, "auto", replace(made, about={}))

    assert found.remark.startswith("torch: the bundle's ONNX graphs are damaged")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "network 'small' is answered by torch: the bundle's ONNX graphs are damaged" in caplog.text


def test_auto_leaves_other_devices_to_torch(torchs, made, monkeypatch):
    monkeypatch.setattr(torchs, "device", torch.device("cuda", 0))

    found = answering(torchs, "auto", made)

    assert found == (torchs, "torch: ONNX Runtime is taken on a CPU alone, unless model.runtime is onnx")


def doubled() -> nn.Module:
    network = small()
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    return network


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (doubled, "network 'other' answers otherwise on ONNX Runtime"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), "network 'other' does not run on ONNX Runtime"),
        (reference_network, "the ONNX graphs are of another network: this one has no tensor "),
    ],
)
def test_what_onnx_runtime_cannot_do_auto_leaves_to_torch_and_says_so(network, why, made):
    if network is reference_network:
        made = bundle(TorchBackbone(torchvision.models.resnet18(num_classes=4), SHAPE))
    other = TorchBackbone(network(), SHAPE, name="other")

    found = answering(other, "auto", made)

    assert found.backbone is other
    assert found.remark.startswith(f"torch: {why}")
    with pytest.raises(ValueError, match=f"^{why}"):
        answering(other, "onnx", made)


def test_without_the_package_auto_is_torch_and_says_what_to_install(torchs, made, monkeypatch, caplog):
    monkeypatch.setattr(module, "find_spec", lambda _name: None)

    found = answering(torchs, "auto", made)

    assert found == (torchs, "torch: ONNX Runtime is not installed; install tta-server[onnx]")
    assert caplog.text == ""


def test_the_graphs_say_the_styles_of_the_layers_that_they_were_made_for(torchs, made):
    found, x = answering(torchs, "auto", made).backbone, images(5)
    (styles, answer), (expected, expected_answer) = (each.styles(x, LAYERS) for each in (found, torchs))

    torch.testing.assert_close(styles, expected)
    assert distance(answer, expected_answer) <= MOST_APART
