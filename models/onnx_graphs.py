"""The graphs that answer for a network, as ONNX files without its weights: so small that a bundle holds them."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tta_server.models.backbone import Backbone, Tensors
from tta_server.models.reference import Reference

PART = "onnx"
"""The part of the bundle that holds them."""

_LEAST_BYTES = 1024  # a smaller tensor stays in the file
_MOST_BYTES = 2**31 - 1  # of one protobuf message
# How a tensor names the file that its values are in, whatever way its length is written: a graph of a bundle has none.
_ELSEWHERE = re.compile(rb"(\x08|\x88\x80*\x00)location")


class Hole(NamedTuple):
    """Where a tensor of the network was taken out of a file.

    Attributes:
        start: The byte of what is left before which it stood.
        name: Its name in the network.
        turned: Whether it stood there transposed.
    """

    start: int
    name: str
    turned: bool


class Graph(NamedTuple):
    """An ONNX file without the network's weights.

    Attributes:
        file: What is left of it.
        holes: Where weights belong, in order.
    """

    file: bytes
    holes: tuple[Hole, ...]

    def filled(self, backbone: Backbone) -> bytes:
        """Return the whole file, with the weights of the network that it was made of.

        Raises:
            KeyError: If it was made of another.
        """
        own, parts, end = _own(backbone), list[bytes](), 0
        for start, name, turned in self.holes:
            parts += self.file[end:start], _bytes(own[name].T if turned else own[name])
            end = start
        return b"".join([*parts, self.file[end:]])


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
        said = {"layers": list(self.layers), "holes": {name: list(graph.holes) for name, graph in held.items()}}
        return {f"{PART}/{name}": file for name, file in files.items()}, {PART: said}


def graphs_of(reference: Reference | None) -> Graphs | None:
    """Return the graphs that a bundle holds, if it does.

    Raises:
        ValueError: If they are damaged, or refer to other files.
    """
    if reference is None or PART not in reference.parts:
        return None
    files = {name: file.cpu().numpy().tobytes() for name, file in reference.part(PART).items()}
    if any(map(_ELSEWHERE.search, files.values())):
        raise ValueError("the bundle's ONNX graphs refer to other files; make it again with 'tta-server calibrate'")
    try:
        said = reference.about[PART]
        held = {
            name: Graph(
                files[name], tuple(Hole(int(start), str(tensor), bool(turned)) for start, tensor, turned in holes)
            )
            for name, holes in said["holes"].items()
        }
        return Graphs(held["source"], held["streams"], held.get("styles"), tuple(map(str, said["layers"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError("the bundle's ONNX graphs are damaged; make it again with 'tta-server calibrate'") from error


def by_content(backbone: Backbone) -> dict[bytes, tuple[str, bool]]:
    """Return the network's weights by the digests of their bytes: each one's name, and whether it is transposed."""
    own = _own(backbone)
    turned = {_digest(_bytes(tensor.T)): (name, True) for name, tensor in own.items() if tensor.dim() == 2}
    return turned | {_digest(_bytes(tensor)): (name, False) for name, tensor in own.items()}


def without_weights(model: Any, known: Mapping[bytes, tuple[str, bool]]) -> Graph:  # noqa: ANN401
    """Return an ONNX model as a file out of which the network's weights, as `by_content` knows them, were taken.

    Raises:
        ValueError: If it is larger than an ONNX file can be.
    """
    file, left, holes, end = serialised(model), bytearray(), list[Hole](), 0
    for data in (constant.raw_data for constant in model.graph.initializer):  # the file has them in this order
        if len(data) >= _LEAST_BYTES and (found := known.get(_digest(data))):
            start = file.index(data, end)
            left += file[end:start]
            end = start + len(data)
            holes.append(Hole(len(left), *found))
    return Graph(bytes(left + file[end:]), tuple(holes))


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
    own = {**backbone.weights(), **backbone.norm_stats()}
    return {name: tensor for name, tensor in own.items() if tensor.dtype == torch.float32}


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
