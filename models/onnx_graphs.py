"""The graphs that answer for a network, as ONNX files without its weights: so small that a bundle holds them."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tta_server.models.backbone import Backbone, Tensors
from tta_server.models.onnx_session import library
from tta_server.models.reference import Reference

PART = "onnx"
"""The part of the bundle that holds them."""

_MOST_BYTES = 2**31 - 1  # of one protobuf message
_LEAST_BYTES = 1024  # a smaller tensor stays in the file


class Absent(NamedTuple):
    """A tensor of the network that was taken out of a graph.

    Attributes:
        name: Its name in the network.
        turned: Whether the graph has it transposed.
    """

    name: str
    turned: bool


class Graph(NamedTuple):
    """A graph whose weights are elsewhere.

    Attributes:
        file: The ONNX file.
        weights: What the file lacks, by its names there.
    """

    file: bytes
    weights: Mapping[str, Absent]

    def lacks(self, backbone: Backbone) -> dict[str, Tensor]:
        """Return what the file lacks, out of the network that it was made of.

        Raises:
            KeyError: If it was made of another.
        """
        own = _own(backbone)
        return {name: own[one.name].T if one.turned else own[one.name] for name, one in self.weights.items()}


class Graphs(NamedTuple):
    """The graphs that answer for a network.

    Attributes:
        source: The frozen network, with styles if layers are named.
        streams: The network whose normalisation layers are inputs.
        styles: The beginning of the frozen network, as far as styles need it; None if no layers are named.
        layers: The normalisation layers whose style it says.
    """

    source: Graph
    streams: Graph
    styles: Graph | None
    layers: tuple[str, ...]

    def part(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the bundle's part that holds them: tensors by their names, and what its `about` says."""
        held = {name: graph for name, graph in self._asdict().items() if isinstance(graph, Graph)}
        files = {name: torch.from_numpy(np.frombuffer(graph.file, np.uint8).copy()) for name, graph in held.items()}
        said = {"layers": list(self.layers), "weights": {name: dict(graph.weights) for name, graph in held.items()}}
        return {f"{PART}/{name}": file for name, file in files.items()}, {PART: said}


def graphs_of(reference: Reference | None) -> Graphs | None:
    """Return the graphs that a bundle holds, if it does.

    Raises:
        ValueError: If they are damaged.
    """
    if reference is None or PART not in reference.parts:
        return None
    files = reference.part(PART)
    try:
        said = reference.about[PART]
        held = {
            name: Graph(files[name].cpu().numpy().tobytes(), {key: Absent(*one) for key, one in lacking.items()})
            for name, lacking in said["weights"].items()
        }
        return Graphs(held["source"], held["streams"], held.get("styles"), tuple(said["layers"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("the bundle's ONNX graphs are damaged; make it again with 'tta-server calibrate'") from error


def take_weights(model: Any, backbone: Backbone) -> dict[str, Absent]:  # noqa: ANN401
    """Take out of an ONNX model those of its constants that are weights of the network; return which."""
    onnx = library("onnx")
    own = {(tuple(tensor.shape), _bytes(tensor)): name for name, tensor in _own(backbone).items()}
    taken = {}
    for constant in model.graph.initializer:
        values = torch.from_numpy(onnx.numpy_helper.to_array(constant).copy())
        if values.nbytes < _LEAST_BYTES:
            continue
        for turned in (False, True)[: values.dim()]:
            seen = values.T if turned else values
            if name := own.get((tuple(seen.shape), _bytes(seen))):
                taken[constant.name] = Absent(name, turned)
                constant.ClearField("raw_data")
                constant.data_location = onnx.TensorProto.EXTERNAL
                for key, value in {"location": name, "offset": 0, "length": values.nbytes}.items():
                    constant.external_data.add(key=key, value=str(value))
                break
    return taken


def serialised(model: Any) -> bytes:  # noqa: ANN401
    """Return an ONNX model as bytes.

    Raises:
        ValueError: If it is larger than an ONNX file can be.
    """
    if model.ByteSize() > _MOST_BYTES:
        raise ValueError(f"the ONNX graph has {model.ByteSize()} bytes, more than one file can hold; use runtime torch")
    data: bytes = model.SerializeToString()
    return data


def _own(backbone: Backbone) -> Tensors:
    return {**backbone.weights(), **backbone.norm_stats()}


def _bytes(tensor: Tensor) -> bytes:
    """Return a digest of the values."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().data).digest()
