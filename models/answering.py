"""What answers for a network: torch or ONNX Runtime."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from tta_server.models.backbone import Backbone
from tta_server.models.onnx_apart import graphs_apart
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_graphs import Graphs
from tta_server.models.torch_backbone import TorchBackbone

Runtime = Literal["torch", "onnx", "auto"]


class Chosen(NamedTuple):
    """What answers for a network.

    Attributes:
        backbone: The network, as it answers.
        remark: What runs it, and why.
    """

    backbone: Backbone
    remark: str


def answering(
    backbone: TorchBackbone, runtime: Runtime, graphs: Graphs | None = None, layers: Sequence[str] = ()
) -> Chosen:
    """Return what answers for `backbone`; what learns is torch's in any case.

    Args:
        backbone: The network.
        runtime: What is asked for; "auto" takes ONNX Runtime on a CPU, where it is installed and there are graphs.
        graphs: Those of the bundle; "onnx" exports the network where there are none.
        layers: Normalisation layers whose style will be asked for, if it does.

    Raises:
        ValueError: If "onnx" is asked for and not possible; the message says why.
    """
    if runtime == "torch":
        return Chosen(backbone, "torch")
    if runtime == "auto" and backbone.device.type != "cpu":
        return Chosen(backbone, "torch: ONNX Runtime is taken on a CPU alone, unless model.runtime is onnx")
    if runtime == "auto" and not graphs:
        return Chosen(backbone, "torch: the bundle has no ONNX graphs; 'tta-server calibrate' makes them")
    try:
        other = OnnxBackbone(backbone, graphs or graphs_apart(backbone, layers))
    except ValueError as error:
        if runtime == "onnx":
            raise
        return Chosen(backbone, f"torch: {error}")
    return Chosen(other, f"onnx: {other.about}")
