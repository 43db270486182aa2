"""A classifier in an ONNX file: it answers and gives features, and nothing in it can be moved."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tta_server.models.head import LastLayer
from tta_server.models.onnx_export import KEY
from tta_server.models.onnx_graphs import serialised
from tta_server.models.onnx_session import OnnxSession, library
from tta_server.models.origin import Origin, own_weights
from tta_server.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from tta_server.models.reason import reason

SUFFIX = ".onnx"

_TYPES = {"FLOAT": torch.float32, "DOUBLE": torch.float64, "FLOAT16": torch.float16}
_SHAPING = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
# What may stand between the layer that makes the logits and the output.
_PASSED = _SHAPING | {"Add", "LogSoftmax", "Softmax"}
_HEADS = {"Gemm", "MatMul"}
_SIDE, _RESIZE = 224, 256 / 224  # where the file does not say: what most networks of ImageNet take


class OnnxModule(nn.Module):
    """The graph as a module from images to logits, with a layer `head` that is given the features.

    It has no parameters and no normalisation layers: both kinds of exporter fold BatchNorm away.
    """

    def __init__(self, graph: bytes, sha: bytes, image: tuple[str, torch.dtype, int], outputs: Sequence[str]) -> None:
        """Take a graph.

        Args:
            graph: Content of the file, its features an output.
            sha: Digest of what was in the file.
            image: Name and type of the input, and how many images it takes at once; 0 is any number.
            outputs: Names of the logits and, if there are any, of the features.
        """
        super().__init__()
        self._graph = graph
        self._image = image
        self._outputs = tuple(outputs)
        self._session: OnnxSession | None = None
        self._sha = sha
        self.register_buffer("sha256", torch.tensor(list(sha), dtype=torch.uint8))  # so that the model's digest has it
        self.head = LastLayer()

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxModule":
        return OnnxModule(self._graph, self._sha, self._image, self._outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the file makes of normalised images (N, C, H, W), (N, K)."""
        if self._session is None or self._session.device != x.device:
            self._session = OnnxSession(self._graph, x.device)
        name, kind, size = self._image
        x = x.to(kind)
        parts = [self._session.run({name: part}, self._outputs) for part in (_filled(x, size) if size else [x])]
        logits, *features = (torch.cat(part)[: len(x)] for part in zip(*parts, strict=True))
        made: Tensor = self.head(features[0], logits) if features else logits
        return made


def onnx_source(path: Path) -> Origin:
    """Return the classifier in an ONNX file, with its weights.

    Raises:
        ValueError: If a package is missing, the file is missing or damaged, or holds no classifier of images.
    """
    if not path.is_file():
        raise ValueError(f"ONNX file '{path}' does not exist")
    onnx = library("onnx")
    try:
        model = onnx.load(path, load_external_data=False)
        beside = _beside(onnx, model)
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
        sha = hashlib.sha256(serialised(model)).digest()  # before this package adds what it infers
        onnx.checker.check_model(model)
        model = onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # damage may lead to anything
        raise ValueError(f"'{path}' is not an ONNX file, or a damaged one: {reason(error, 300)}") from error
    constants = {tensor.name for tensor in model.graph.initializer}
    images = _image(path, [given for given in model.graph.input if given.name not in constants])
    logits = _output(path, model.graph)
    features = _features(model.graph, logits)
    if features and features not in {output.name for output in model.graph.output}:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(features))
    size, *shape = (dim.dim_value for dim in images.type.tensor_type.shape.dim)
    kind = _TYPES[onnx.TensorProto.DataType.Name(images.type.tensor_type.elem_type)]
    about: dict[str, Any] = next((json.loads(entry.value) for entry in model.metadata_props if entry.key == KEY), {})
    graph, names = serialised(model), (logits, features) if features else (logits,)

    return Origin(
        own_weights(path),
        _exported(about["preprocess"]) if about else _preprocess(shape),
        path,
        tuple(about.get("labels", ())),
        ready=lambda: OnnxModule(graph, sha, (images.name, kind, size), names),
        head="head" if features else "",
        beside=beside,
    )


def _beside(onnx: Any, model: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Return the names of the files in which a model keeps tensors that are too large for its own."""
    elsewhere = [one for one in _tensors(model, onnx.TensorProto) if one.data_location == onnx.TensorProto.EXTERNAL]
    return tuple(sorted({about.value for one in elsewhere for about in one.external_data if about.key == "location"}))


def _tensors(message: Any, kind: type) -> Iterator[Any]:  # noqa: ANN401
    """Give every tensor in a part of a model: constants are in nodes, too, and nodes in other graphs."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        for each in (value if hasattr(value, "__len__") else [value]) if field.message_type else []:
            yield from _tensors(each, kind)


def _image(path: Path, given: Sequence[Any]) -> Any:  # noqa: ANN401
    """Return the one input, if it takes images."""
    names = ", ".join(value.name for value in given) or "none"
    if len(given) != 1:
        raise ValueError(f"'{path}' has inputs {names}, expected one of images (N, C, H, W)")
    tensor = given[0].type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    if len(shape) != 4 or shape[1] not in (0, 1, 3):
        raise ValueError(f"input '{names}' of '{path}' has shape {shape}, expected images (N, C, H, W), channels first")
    if tensor.elem_type not in (1, 10, 11):
        raise ValueError(
            f"input '{names}' of '{path}' takes no floating-point numbers; export the network without that"
        )
    return given[0]


def _output(path: Path, graph: Any) -> str:  # noqa: ANN401
    """Return the name of the one output of scores, (N, K)."""
    made = graph.output
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in made}
    found = [name for name, shape in shapes.items() if len(shape) == 2]
    found = found or [name for name, shape in shapes.items() if len(shape) == 4 and shape[2:] == [1, 1]]
    found = found[:1] if {value.name for value in made} <= {"logits", "features", "style"} else found
    if len(found) != 1:
        raise ValueError(
            f"'{path}' has outputs {', '.join(value.name for value in made)}, expected one of logits (N, classes); "
            "export the network with that one alone"
        )
    name: str = found[0]
    makers = {output: node for node in graph.node for output in node.output}
    last = makers.get(name)
    while last and last.op_type in _SHAPING:
        last = makers.get(last.input[0])
    if last and last.op_type in ("HardSigmoid", "Sigmoid"):
        raise ValueError(
            f"'{path}' ends in a sigmoid, which says of each class by itself whether it is there; this server names "
            "one class of several: export the logits of such classes"
        )
    return name


def _features(graph: Any, output: str) -> str:  # noqa: ANN401
    """Return the name of what goes into the last Gemm or MatMul before an output; empty if it is not seen to."""
    makers = {name: node for node in graph.node for name in node.output}
    fixed = {tensor.name for tensor in graph.initializer} | {
        name for name, node in makers.items() if node.op_type == "Constant"
    }
    name = output
    while name in makers:
        node = makers[name]
        moving = [given for given in node.input if given and given not in fixed]
        if len(moving) != 1 or node.op_type not in _PASSED | _HEADS:
            return ""
        name = moving[0]
        if node.op_type in _HEADS:
            return name if name in makers else ""
    return ""


def _exported(fields: dict[str, Any]) -> Preprocess:
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Preprocess(**fields)


def _preprocess(shape: Sequence[int]) -> Preprocess:
    channels, height, width = shape
    size = (height or _SIDE, width or _SIDE)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels != 1 else (None, None)
    return Preprocess(size, resize=round(max(size) * _RESIZE), channels=channels or 3, mean=mean, std=std)


def _filled(x: Tensor, size: int) -> list[Tensor]:
    """Return images in parts of one size, the last image again and again where one lacks some."""
    lacking = -len(x) % size
    return list(torch.split(torch.cat([x, x[-1:].expand(lacking, *x.shape[1:])]), size))
