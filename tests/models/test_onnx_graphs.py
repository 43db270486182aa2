"""Graphs without weights: they are small, answer to the bit as whole ones, and lie in the bundle."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
import torchvision
from torch import nn

from tests.models.small import SHAPE, images, small
from tests.networks import reference_network
from tta_server.models import Reference, TorchBackbone
from tta_server.models.backbone import Tensors, size_bytes
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_export import FEATURES, IMAGES, LOGITS, export, graphs, source_only, write
from tta_server.models.onnx_graphs import PART, Graphs, graphs_of, serialised
from tta_server.models.onnx_session import OnnxSession
from tta_server.models.preprocess import Preprocess
from tta_server.models.reference import load_reference

LAYERS = ("bn",)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> TorchBackbone:
    return TorchBackbone(small(), SHAPE, name="small")


@pytest.fixture(scope="module")
def made(backbone: TorchBackbone) -> Graphs:
    return graphs(backbone, LAYERS)


def transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)


@pytest.mark.parametrize("network", [reference_network, transformer])
@pytest.mark.parametrize("streams", [False, True])
def test_they_hold_next_to_no_weights_and_answer_to_the_bit_as_with_them(network, streams):
    torch.manual_seed(0)
    backbone = TorchBackbone(network(), (3, 32, 32))
    found, whole = graphs(backbone), export(backbone)
    graph = found.streams if streams else found.source
    asked = {IMAGES: images(3, (3, 32, 32)), **(moved(backbone) if streams else {})}

    expected = OnnxSession(serialised(whole if streams else source_only(whole)), CPU).run(asked, [LOGITS, FEATURES])
    said = OnnxSession(graph.file, CPU, graph.lacks(backbone)).run(asked, [LOGITS, FEATURES])

    assert all(map(torch.equal, said, expected))
    held = sum(onnx.numpy_helper.to_array(one).nbytes for one in constants(graph.file) if not one.data_location)
    assert held < size_bytes(backbone.weights()) / 5


def moved(backbone: TorchBackbone) -> Tensors:
    """Return some of the tensors that a stream may move, not all: the others are what the graph lacks."""
    return {name: tensor * 1.1 for name, tensor in list(backbone.norm_affine().items())[::2]}


def constants(file: bytes) -> list[onnx.TensorProto]:
    return list(onnx.load_model_from_string(file).graph.initializer)


def test_a_bundle_holds_them(made, backbone, tmp_path):
    tensors, about = made.part()
    Reference(backbone.spec.digest, tensors, about).save(tmp_path / "bundle.safetensors")

    found = graphs_of(load_reference(tmp_path / "bundle.safetensors", backbone))

    assert found == made
    assert OnnxBackbone(backbone, found).styles(images(2), LAYERS)[1] is not None


def test_a_bundle_may_have_none(backbone):
    assert graphs_of(None) is None
    assert graphs_of(Reference(backbone.spec.digest, {"memory/labels": torch.zeros(1)})) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda bundle: replace(bundle, about={}),
        lambda bundle: replace(bundle, about={PART: 3}),
        lambda bundle: replace(bundle, about={PART: {**bundle.about[PART], "weights": {"source": {"w": ["a"]}}}}),
        lambda bundle: replace(bundle, tensors={f"{PART}/source": bundle.tensors[f"{PART}/source"]}),
    ],
)
def test_damaged_ones_are_refused_in_one_line(damage, made, backbone):
    with pytest.raises(ValueError, match="the bundle's ONNX graphs are damaged; make it again with 'tta-server calib"):
        graphs_of(damage(Reference(backbone.spec.digest, *made.part())))


def test_no_file_says_where_it_was_made(made, backbone, tmp_path):
    """The exporter notes lines of source code, and paths of the machine."""
    write(backbone, Preprocess(SHAPE[1:]), tuple("vwxy"), tmp_path)
    files = [*(path.read_bytes() for path in tmp_path.glob("*.onnx")), *(graph.file for graph in made[:3])]

    own = str(Path(torch.__file__).parent).encode(), str(Path(__file__).parent).encode(), b"File ", b".py"

    assert len(files) == 5
    assert [sign for sign in own for file in files if sign in file] == []
