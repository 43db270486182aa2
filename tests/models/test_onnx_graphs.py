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
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_export import export, graphs, source_only, write
from tta_server.models.onnx_graphs import PART, Graphs, graphs_of, serialised
from tta_server.models.preprocess import Preprocess
from tta_server.models.reference import load_reference

LAYERS = ("bn",)


@pytest.fixture(scope="module")
def backbone() -> TorchBackbone:
    return TorchBackbone(small(), SHAPE, name="small")


@pytest.fixture(scope="module")
def made(backbone: TorchBackbone) -> Graphs:
    return graphs(backbone, LAYERS)


def transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)


class Mixed(nn.Module):
    """Holds a weight twice, two that are equal, and numbers of another type."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(48, 48, bias=False), nn.Linear(48, 48, bias=False)
        self.second.weight.data.copy_(self.first.weight)
        self.third = nn.Linear(48, 48, bias=False)
        self.third.weight = self.first.weight
        self.register_buffer("scale", torch.rand(3, 32, 32).to(torch.bfloat16))
        self.head = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x * self.scale.float()).reshape(-1, 64, 48).mean(1)
        return self.head(self.third(self.second(self.first(x).relu()).relu()).relu())


@pytest.mark.parametrize("network", [reference_network, transformer, Mixed])
def test_they_hold_next_to_no_weights_and_are_the_whole_files_again_with_them(network):
    torch.manual_seed(0)
    backbone = TorchBackbone(network(), (3, 32, 32))
    whole = export(backbone)

    found = graphs(backbone)

    assert found.streams.filled(backbone) == serialised(whole)
    assert found.source.filled(backbone) == serialised(source_only(whole))
    assert OnnxBackbone(backbone, found).forward(images(2, (3, 32, 32))).logits.isfinite().all()
    held = sum(onnx.numpy_helper.to_array(one).nbytes for one in whole.graph.initializer)
    assert len(found.source.filled(backbone)) - len(found.source.file) > 0.6 * held  # `Mixed` has a third in a buffer


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
        lambda bundle: replace(bundle, about={PART: {**bundle.about[PART], "holes": {"source": [["a", "w", False]]}}}),
        lambda bundle: replace(bundle, about={PART: {**bundle.about[PART], "holes": {"source": [3]}}}),
        lambda bundle: replace(bundle, tensors={f"{PART}/source": bundle.tensors[f"{PART}/source"]}),
    ],
)
def test_damaged_ones_are_refused_in_one_line(damage, made, backbone):
    with pytest.raises(ValueError, match="the bundle's ONNX graphs are damaged; make it again with 'tta-server calib"):
        graphs_of(damage(Reference(backbone.spec.digest, *made.part())))


@pytest.mark.parametrize("length", [b"\x08", b"\x88\x00", b"\x88\x80\x00"])
def test_one_that_refers_to_another_file_is_refused(length, made, backbone):
    """ONNX Runtime would read it, wherever it lies."""
    tensors, about = made.part()
    hostile = external("/etc/passwd").replace(b"\x08location", length + b"location")

    with pytest.raises(ValueError, match="the bundle's ONNX graphs refer to other files"):
        graphs_of(Reference(backbone.spec.digest, tensors | {f"{PART}/source": as_tensor(hostile)}, about))


def external(path: str) -> bytes:
    tensor = onnx.TensorProto(name="w", dims=[4], data_type=onnx.TensorProto.FLOAT, data_location=1)
    tensor.external_data.add(key="location", value=path)
    return onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString()


def as_tensor(file: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(file), dtype=torch.uint8)


def test_graphs_that_lack_an_output_are_refused_at_once(made, backbone):
    for broken in (made._replace(source=graphs(backbone).source), made._replace(styles=made.streams)):
        with pytest.raises(ValueError, match="network 'small' does not run on ONNX Runtime"):
            OnnxBackbone(backbone, broken)


def test_no_file_says_where_it_was_made(made, backbone, tmp_path):
    """The exporter notes lines of source code, and paths of the machine."""
    write(backbone, Preprocess(SHAPE[1:]), tuple("vwxy"), tmp_path)
    files = [*(path.read_bytes() for path in tmp_path.glob("*.onnx")), *(graph.file for graph in made[:3])]

    own = str(Path(torch.__file__).parent).encode(), str(Path(__file__).parent).encode(), b"File ", b".py"

    assert len(files) == 5
    assert [sign for sign in own for file in files if sign in file] == []
