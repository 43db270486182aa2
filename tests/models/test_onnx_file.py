"""A user's own ONNX file: what it says, its features, what can be done with it, and what is refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.testing import assert_close

from tests.models.small import SHAPE, images, small
from tta_server.adapters import registered
from tta_server.adapters.base import check
from tta_server.models import Custom, Preprocess, Reference, TorchBackbone, load
from tta_server.models.onnx_export import write
from tta_server.models.onnx_session import library
from tta_server.models.weights import digest

LABELS = tuple("vwxyz")
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "here"
    network = TorchBackbone(small(), SHAPE, mean=[0.5] * 3, std=[0.2] * 3, name="small")
    write(network, Preprocess((8, 8), resize=9, mean=[0.5] * 3, std=[0.2] * 3), LABELS, folder)
    return folder


def graph(
    path: Path,
    image=("N", 3, 8, 8),
    tail: tuple[str, ...] = (),
    head: str = "Gemm",
    kind: int = TensorProto.FLOAT,
    classes: int = 4,
    inputs: int = 1,
) -> Path:
    """Write a classifier: the mean of each channel, a layer of weights, and what follows."""
    numpy_type = helper.tensor_dtype_to_np_dtype(kind)
    weight = RANDOM.normal(size=(3, classes)).astype(numpy_type)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node(head, ["features", "w"], ["made0"]),
    ]
    nodes += [helper.make_node(name, [f"made{i}"], [f"made{i + 1}"]) for i, name in enumerate(tail)]
    given = [helper.make_tensor_value_info(name, kind, list(image)) for name in ("x", "y")[:inputs]]
    made = [helper.make_tensor_value_info(f"made{len(tail)}", kind, [image[0], classes])]
    body = helper.make_graph(nodes, "g", given, made, [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


# Export
def test_both_files_answer_as_the_network_without_anything_else_being_known(exported):
    network = TorchBackbone(small(), SHAPE, mean=[0.5] * 3, std=[0.2] * 3)
    x = images(5)

    for name in ("source.onnx", "streams.onnx"):
        model = load(str(exported / name))

        assert_close(model.backbone.forward(x).logits, network.forward(x).logits, atol=1e-5, rtol=1e-5)
        assert_close(model.backbone.forward(x).features, network.forward(x).features, atol=1e-5, rtol=1e-5)
        assert model.labels == LABELS
        assert model.preprocess == Preprocess((8, 8), resize=9)


def test_norms_are_inputs_by_their_names_and_the_json_says_so(exported):
    network = TorchBackbone(small(), SHAPE, mean=[0.5] * 3, std=[0.2] * 3)
    about = json.loads((exported / "export.json").read_text())
    x, moved = images(2), {name: tensor * 1.2 for name, tensor in network.norm_affine().items()}
    session = library("onnxruntime").InferenceSession(exported / "streams.onnx", providers=["CPUExecutionProvider"])

    logits, _ = session.run(None, {"images": x.numpy(), **{name: moved[name].numpy() for name in moved}})

    assert_close(torch.from_numpy(logits), network.forward(x, moved).logits, atol=1e-5, rtol=1e-5)
    assert about["digest"] == network.spec.digest
    assert {name: tuple(shape) for name, shape in about["inputs"].items()} == {
        name: tuple(tensor.shape) for name, tensor in {**network.norm_affine(), **network.norm_stats()}.items()
    }
    assert [given.name for given in onnx.load(exported / "source.onnx").graph.input] == ["images"]


# Files of others
@pytest.mark.parametrize("head", ["Gemm", "MatMul"])
@pytest.mark.parametrize("tail", [(), ("Softmax",), ("Identity", "LogSoftmax")])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_features_are_what_goes_into_the_last_layer_of_weights(tmp_path, head, tail, kind):
    path = graph(tmp_path / "own.onnx", head=head, tail=tail, kind=kind)
    x = images(6)

    model = load(str(path), custom=Custom(preprocess=Preprocess((8, 8))))

    output = model.backbone.forward(x)
    weight = torch.tensor(numpy_helper.to_array(onnx.load(path).graph.initializer[0])).float()
    assert model.backbone.spec.name == "own"
    close = {"atol": 1e-5 if kind == TensorProto.FLOAT else 1e-2, "rtol": 0}
    assert_close(output.features.float(), x.mean((2, 3)), **close)
    assert_close(output.logits.float().softmax(1), (x.mean((2, 3)) @ weight).softmax(1), **close)


def test_logits_of_one_place_for_each_class_are_read_as_rows(tmp_path):
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, ["N", 4, 1, 1])
    weight = numpy_helper.from_array(RANDOM.normal(size=(4, 3, 1, 1)).astype(np.float32), "w")
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "w"], ["made"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    body = helper.make_graph(nodes, "g", [given], [made], [weight])
    path = tmp_path / "own.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)

    logits = load(str(path), custom=Custom(preprocess=Preprocess((8, 8)))).backbone.forward(images(5)).logits

    kernel = torch.from_numpy(numpy_helper.to_array(weight).copy())[:, :, 0, 0]
    assert_close(logits, images(5).mean((2, 3)) @ kernel.T, atol=1e-5, rtol=0)


def test_a_file_for_batches_of_one_size_answers_any_number(tmp_path):
    fixed = load(str(graph(tmp_path / "fixed.onnx", image=(4, 3, 8, 8))), custom=Custom(preprocess=Preprocess((8, 8))))
    x = images(7)

    assert_close(fixed.backbone.forward(x).features, x.mean((2, 3)), atol=1e-6, rtol=0)
    assert len(fixed.backbone.forward(x[:1]).logits) == 1
    assert fixed.backbone.findings.apart


def test_what_needs_features_only_learns_and_everything_else_is_refused_with_the_reason(tmp_path):
    backbone = load(str(graph(tmp_path / "own.onnx"))).backbone
    needed = {need.removeprefix("reference.") for adapter in registered() for need in adapter.requires}
    reference = Reference(backbone.spec.digest, {f"{part}/all": torch.zeros(1) for part in needed})
    refused = {}
    for adapter in registered():
        try:
            check(adapter, backbone, reference)
        except ValueError as error:
            refused[adapter.name] = str(error)

    assert {adapter.name for adapter in registered()} - refused.keys() == {"source", "lame", "adanpc"}
    assert all("which backbone 'own' does not have; use one that needs less" in said for said in refused.values())
    assert "nothing in it can be moved" in backbone.findings.remarks["type"]
    assert load(str(tmp_path / "own.onnx")).preprocess.resize == 9


def test_a_digest_of_a_file_whose_weights_lie_in_another_is_refused(tmp_path):
    whole, split = graph(tmp_path / "whole.onnx"), tmp_path / "split.onnx"
    onnx.save(onnx.load(whole), split, save_as_external_data=True, location="split.onnx.data", size_threshold=0)

    answers = [load(str(path)).backbone.forward(images(2)).logits for path in (whole, split)]

    assert torch.equal(*answers)
    load(str(whole), sha256=digest(whole))
    constant = onnx.load(whole)
    weight = constant.graph.initializer.pop()
    constant.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    other = {"location": "other.data", "size_threshold": 0, "convert_attribute": True}
    onnx.save(constant, tmp_path / "constant.onnx", save_as_external_data=True, **other)
    with pytest.raises(ValueError, match=r"weights lie in 'other\.data' too"):
        load(str(tmp_path / "constant.onnx"), sha256=digest(tmp_path / "constant.onnx"))
    with pytest.raises(ValueError, match=r"weights lie in 'split\.onnx\.data' too; save the model as one file"):
        load(str(split), sha256=digest(split))


def test_the_digest_is_the_files(tmp_path):
    one, two = (load(str(graph(tmp_path / f"{i}.onnx"))).backbone.spec.digest for i in (1, 2))

    assert one != two
    assert load(str(tmp_path / "1.onnx")).backbone.spec.digest == one


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"image": ("N", 8, 8, 3)}, r"has shape \[0, 8, 8, 3\], expected images \(N, C, H, W\), channels first"),
        ({"inputs": 2}, "has inputs x, y, expected one of images"),
        ({"classes": 1}, "makes one number for each image"),
        ({"tail": ("Sigmoid",)}, "own.onnx' ends in a sigmoid"),
        ({"tail": ("Sigmoid", "Identity", "Flatten")}, "own.onnx' ends in a sigmoid"),
        ({"tail": ("HardSigmoid",)}, "own.onnx' ends in a sigmoid"),
        ({"tail": ("Neg", "Exp", "Softplus", "Neg", "Exp")}, "network 'own' cannot be served: it ends in a sigmoid"),
    ],
)
def test_what_is_no_classifier_is_refused_in_one_line(tmp_path, more, message):
    with pytest.raises(ValueError, match=message) as refused:
        load(str(graph(tmp_path / "own.onnx", **more)))

    assert "\n" not in str(refused.value)


def test_a_file_that_is_missing_damaged_or_given_weights_is_refused_in_one_line(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no protobuf")
    graph(tmp_path / "own.onnx")

    with pytest.raises(ValueError, match=r"ONNX file 'none\.onnx' does not exist"):
        load("none.onnx")
    with pytest.raises(ValueError, match=r"bad\.onnx' is not an ONNX file, or a damaged one") as refused:
        load(str(tmp_path / "bad.onnx"))
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="holds its own weights"):
        load(str(tmp_path / "own.onnx"), weights=tmp_path / "bad.onnx")
