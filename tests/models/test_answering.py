"""Who answers: what was asked for, or the faster of both, and why."""

import pytest

from tests.models.small import SHAPE, small
from tta_server.models import TorchBackbone
from tta_server.models import answering as module
from tta_server.models.answering import answering
from tta_server.models.onnx_backbone import OnnxBackbone


@pytest.fixture(scope="module")
def torchs() -> TorchBackbone:
    return TorchBackbone(small(), SHAPE, name="small")


@pytest.fixture(scope="module")
def onnx(torchs: TorchBackbone) -> OnnxBackbone:
    return OnnxBackbone(torchs)


@pytest.mark.parametrize(("share", "remark"), [(0.5, "onnx: ONNX Runtime"), (1.2, "torch: ONNX Runtime takes 1.20")])
def test_auto_takes_the_faster_and_says_so(share, remark, torchs, onnx, monkeypatch):
    monkeypatch.setattr(module, "OnnxBackbone", lambda *_: onnx)
    monkeypatch.setattr(module, "compare", lambda *_: share)

    found = answering(torchs, "auto")

    assert found.backbone is (onnx if share < 1 else torchs)
    assert found.remark.startswith(remark)


def test_what_onnx_runtime_cannot_do_torch_does_if_it_may(torchs, monkeypatch):
    def refuse(*_: object) -> None:
        raise ValueError("no such operator")

    monkeypatch.setattr(module, "OnnxBackbone", refuse)

    assert answering(torchs, "auto") == (torchs, "torch: no such operator")
    assert answering(torchs, "torch") == (torchs, "torch")
    with pytest.raises(ValueError, match="no such operator"):
        answering(torchs, "onnx")


def test_the_times_of_both_are_taken_from_the_source_and_a_stream(torchs, onnx, monkeypatch):
    ways = []
    monkeypatch.setattr(module, "_timed", lambda made: ways.append([way() for way in made]) or [1.0, 4.0])

    assert module.compare(onnx, torchs) == pytest.approx(0.25)
    assert len(ways) == 4
