"""Streams that ONNX Runtime answers keep apart as those of torch's do, bit for bit."""

from hypothesis import HealthCheck, settings

from tests.tta_server.runtime.fakes import BlindToWhite, tiny
from tests.tta_server.runtime.test_isolation import Server
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_export import graphs


class OnnxServer(Server):
    """The same requests and commands, answered by ONNX Runtime."""


class TestOnnxServer(OnnxServer.TestCase):
    settings = settings(
        max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )

    @classmethod
    def setUpClass(cls) -> None:
        network = tiny(BlindToWhite)
        OnnxServer.answers = OnnxBackbone(network, graphs(network))
