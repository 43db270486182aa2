"""Who answers: what was asked for, or the faster of both, and why."""

from functools import cache

import pytest
import torch

from tests.models.small import SHAPE, small
from tta_server.models import EMPTY, TorchBackbone
from tta_server.models import answering as module
from tta_server.models.answering import answering
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_export import IMAGES, graphs
from tta_server.models.onnx_session import OnnxSession

LAYERS = ("bn",)
EXPORTED = cache(graphs)  # `test_onnx_apart.py` shows that another process exports the same


@pytest.fixture(scope="module")
def torchs() -> TorchBackbone:
    return TorchBackbone(small(), SHAPE, name="small")


@pytest.fixture(scope="module")
def onnx(torchs: TorchBackbone) -> OnnxBackbone:
    return OnnxBackbone(torchs)


@pytest.mark.parametrize(
    ("shares", "remark", "rows"),
    [
        ((0.5, 0.9), "onnx: ONNX Runtime", {1, 3, 4, 32}),
        ((1.2, 1.1), "torch: ONNX Runtime takes 1.20 of torch's time of 1 image and 1.10 of 8", set()),
        ((0.8, 1.1), "onnx for fewer than 4 images, else torch", {1, 3}),
        ((1.1, 0.8), "onnx for at least 4 images, else torch", {4, 32}),
    ],
)
def test_auto_takes_the_faster_for_each_number_of_images_and_says_so(shares, remark, rows, torchs, monkeypatch):
    monkeypatch.setattr(
        module, "compare", lambda _one, _other, numbers: dict(zip((1, 8), shares, strict=True))[numbers[0]]
    )
    monkeypatch.setattr(module, "graphs_apart", EXPORTED)

    found = answering(torchs, "auto", LAYERS)

    assert found.remark.startswith(remark)
    ran = set()
    monkeypatch.setattr(OnnxSession, "run", recorded(ran, OnnxSession.run))
    for count in (1, 3, 4, 32):
        x = torch.rand(count, *SHAPE)
        expected, (styles, answer) = torchs.forward(x), found.backbone.styles(x, LAYERS)
        for output in (found.backbone.forward(x), answer):
            torch.testing.assert_close(output.logits, expected.logits)
        torch.testing.assert_close(styles, torchs.styles(x, LAYERS)[0])
        stacked = found.backbone.forward_stacked(x[None].expand(2, -1, -1, -1, -1), EMPTY)
        torch.testing.assert_close(stacked.logits[1], expected.logits)
    assert ran == rows


def recorded(ran, run):
    """Return `run` that notes how many images a session was given."""

    def noted(session, inputs, *given, **named):
        ran.add(len(inputs[IMAGES]))
        return run(session, inputs, *given, **named)

    return noted


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

    assert module.compare(onnx, torchs, [1, 8]) == pytest.approx(0.25)
    assert len(ways) == 4
