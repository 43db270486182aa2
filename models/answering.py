"""What answers for a network: torch or ONNX Runtime."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, NamedTuple

from tta_server.models.backbone import Backbone
from tta_server.models.onnx_apart import graphs_apart
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_graphs import PART, graphs_of
from tta_server.models.reference import Reference
from tta_server.models.torch_backbone import TorchBackbone

log = logging.getLogger(__name__)

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
    backbone: TorchBackbone, runtime: Runtime, reference: Reference | None = None, layers: Sequence[str] = ()
) -> Chosen:
    """Return what answers for `backbone`; what learns is torch's in any case.

    Args:
        backbone: The network.
        runtime: What is asked for; "auto" takes ONNX Runtime on a CPU, where it is installed and the bundle has graphs.
        reference: The bundle; if it has no graphs, "onnx" exports the network.
        layers: Normalisation layers whose style will be asked for, if it does.

    Raises:
        ValueError: If "onnx" is asked for and not possible; the message says why.
    """
    if runtime == "torch":
        return Chosen(backbone, "torch")
    if runtime == "auto" and (why := _unfit(backbone, reference)):
        return Chosen(backbone, f"torch: {why}")
    try:
        other = OnnxBackbone(backbone, graphs_of(reference) or graphs_apart(backbone, layers))
    except ValueError as error:
        if runtime == "onnx":
            raise
        log.warning("network '%s' is answered by torch: %s", backbone.spec.name, error)
        return Chosen(backbone, f"torch: {error}")
    return Chosen(other, f"onnx: {other.about}")


def _unfit(backbone: TorchBackbone, reference: Reference | None) -> str:
    """Return why ONNX Runtime is not even tried, or an empty string."""
    if backbone.device.type != "cpu":
        return "ONNX Runtime is taken on a CPU alone, unless model.runtime is onnx"
    if reference is None:
        return "there is no bundle, which may have ONNX graphs"
    if PART not in reference.parts:
        why = reference.about.get("left_out", {}).get(PART, "'tta-server calibrate' makes them")
        return f"the bundle has no ONNX graphs ({why})"
    return "" if find_spec("onnxruntime") else "ONNX Runtime is not installed; install tta-server[onnx]"
