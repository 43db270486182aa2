"""The network as ONNX graphs, for the bundle."""

from dataclasses import replace

from tta_server.calibrate.progress import Progress
from tta_server.domains.space import styled_layers
from tta_server.models import Reference, onnx_graphs
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_export import graphs
from tta_server.models.reason import reason
from tta_server.models.torch_backbone import TorchBackbone


def with_graphs(reference: Reference, backbone: TorchBackbone, progress: Progress) -> Reference:
    """Return a bundle with the graphs by which ONNX Runtime answers, or with why there are none.

    Args:
        reference: The bundle.
        backbone: Its network.
        progress: Told when it begins and ends.
    """
    progress("ONNX graphs", 0, 1)
    try:
        made = graphs(backbone, styled_layers(reference))
        if backbone.device.type == "cpu":  # others are for CUDA's ONNX Runtime, and compared at each start
            OnnxBackbone(backbone, made)
    except Exception as error:  # a network may be anything
        why = str(error) if isinstance(error, ValueError) else reason(error)
        left_out = {**reference.about.get("left_out", {}), onnx_graphs.PART: why}
        return replace(reference, about={**reference.about, "left_out": left_out})
    finally:
        progress("ONNX graphs", 1, 1)
    tensors, about = made.part()
    return replace(reference, tensors={**reference.tensors, **tensors}, about={**reference.about, **about})
