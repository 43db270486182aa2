"""ONNX Runtime answers as torch does, and leaves to torch what only torch can do."""

import importlib
import sys
from collections.abc import Sequence
from functools import cache

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

from tests.models.small import SHAPE, images, small
from tests.networks import layer_norm_network, reference_network
from tta_server.adapters import create, registered
from tta_server.adapters.laws.subject import bundle
from tta_server.adapters.stack import predict_stacked
from tta_server.models import Output, TorchBackbone
from tta_server.models.backbone import distance, replaceable
from tta_server.models.onnx_backbone import MOST_APART, OnnxBackbone
from tta_server.models.onnx_export import graphs
from tta_server.models.onnx_session import OnnxSession
from tta_server.models.robust import robust


def mobilenet() -> nn.Module:
    blocks = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        InvertedResidualConfig(16, 5, 32, 24, True, "HS", 2, 1, 1.0),
    ]
    return MobileNetV3(blocks, 32, num_classes=10)


def transformer() -> nn.Module:
    network = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)
    nn.init.normal_(network.heads.head.weight)  # it is zero while nobody has trained it
    return network


NETWORKS = {
    "BatchNorm": lambda: (reference_network(), ["bn", "l1.bn1"]),
    "LayerNorm and GroupNorm": lambda: (layer_norm_network(), []),
    "mobilenet": lambda: (mobilenet(), ["features.0.1"]),
    "vision transformer": lambda: (transformer(), ["encoder.layers.encoder_layer_0.ln_1"]),
}
# What of their states no graph takes: these answer with other weights than norms', or from the batch alone.
TORCHS = {"vida"}


@cache
def made(name: str) -> tuple[TorchBackbone, OnnxBackbone, list[str]]:
    torch.manual_seed(0)
    network, layers = NETWORKS[name]()
    backbone = TorchBackbone(network, (3, 32, 32), name=name)
    return backbone, exported(backbone, layers), layers


def exported(backbone: TorchBackbone, layers: Sequence[str] = ()) -> OnnxBackbone:
    return OnnxBackbone(backbone, graphs(backbone, layers))


def asked(monkeypatch: pytest.MonkeyPatch, backbone: TorchBackbone) -> list[str]:
    """Return a list that grows with each forward of torch's."""
    heard: list[str] = []
    forward = backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda *given, **more: heard.append("torch") or forward(*given, **more))
    return heard


@pytest.mark.parametrize("name", NETWORKS)
def test_the_source_and_what_a_stream_has_learnt_answer_alike_on_both(name, batch, monkeypatch):
    torchs, onnx, layers = made(name)
    adapter = create("tent", lr=0.01)
    state = adapter.init(torchs)
    for _ in range(3):
        state = adapter.adapt(torchs, state, batch).state
    expected = [(torchs.forward(x), adapter.predict(torchs, state, x)) for x in (batch, batch[:1])]
    styles = torchs.styles(batch, layers)[0] if layers else None
    heard = asked(monkeypatch, torchs)

    for x, (source, learnt) in zip((batch, batch[:1]), expected, strict=True):
        assert distance(onnx.forward(x), source) <= MOST_APART
        assert distance(adapter.predict(onnx, state, x), learnt) <= MOST_APART

    if styles is not None:
        found, output = onnx.styles(batch, layers)
        assert distance(Output(found, output.logits), Output(styles, expected[0][0].logits)) <= MOST_APART
        assert torch.equal(onnx.styles(batch, layers, answer=False)[0], found)
    assert heard == []
    assert distance(*expected[0]) > 10 * MOST_APART, "nothing was learnt, so that nothing was compared"


@pytest.mark.parametrize("adapter", registered(), ids=lambda adapter: adapter.name)
def test_every_adapter_answers_alike_on_both(adapter, batch, monkeypatch):
    torchs, onnx, _ = made("BatchNorm")
    reference = bundle(adapter, torchs) if "reference.memory" in adapter.requires else None
    state = adapter.init(torchs, reference)
    for _ in range(2):
        state = adapter.adapt(torchs, state, batch).state
    expected = adapter.predict(torchs, state, batch)
    heard = asked(monkeypatch, torchs)

    found = adapter.predict(onnx, state, batch)

    assert distance(found, expected) <= MOST_APART
    assert bool(heard) == (adapter.name in TORCHS)


def test_streams_that_share_a_forward_have_the_bits_that_each_has_alone(batches, monkeypatch):
    torchs, onnx, _ = made("BatchNorm")
    adapter = create("tent", lr=0.01)
    states = [adapter.adapt(torchs, adapter.init(torchs), x).state for x in batches[:3]]
    heard = asked(monkeypatch, torchs)

    together = predict_stacked(adapter, onnx, states, batches[:3, :4])

    for i, state in enumerate(states):
        assert torch.equal(together.logits[i], adapter.predict(onnx, state, batches[i, :4]).logits)
    assert heard == []
    assert onnx.findings.stacks
    assert not made("LayerNorm and GroupNorm")[1].findings.stacks


def test_batch_statistics_gradients_and_other_weights_are_torchs(batch):
    torchs, onnx, _ = made("BatchNorm")
    theta = {name: tensor.clone().requires_grad_() for name, tensor in torchs.norm_affine().items()}
    head = {name: tensor * 2 for name, tensor in torchs.weights().items() if name.startswith("fc")}

    assert torch.equal(onnx.forward(batch, statistics="batch").logits, torchs.forward(batch, statistics="batch").logits)
    assert torch.equal(onnx.forward(batch, head).logits, torchs.forward(batch, head).logits)
    onnx.forward(batch, theta).logits.sum().backward()
    assert all(tensor.grad is not None for tensor in theta.values())


def test_statistics_that_a_bundle_measured_change_no_stored_ones(batch):
    _, onnx, _ = made("BatchNorm")
    moved = {name: tensor * 1.1 for name, tensor in onnx.norm_stats().items()}

    held = robust(onnx, 16, source_share=0.5)

    assert torch.equal(held.forward(batch, moved).logits, onnx.forward(batch, moved).logits)


@pytest.mark.parametrize(
    ("x", "overrides", "message"),
    [
        (torch.rand(2, 32, 32, 3), {}, "send channels first"),
        (torch.rand(0, 3, 32, 32), {}, "image batch is empty"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), {}, "images are uint8"),
        (torch.rand(2, 3, 32, 32), {"bn.weight": torch.ones(3)}, r"override 'bn.weight' has shape \(3,\)"),
        (torch.rand(2, 3, 32, 32), {"nothing": torch.ones(3)}, "has no tensor 'nothing'"),
    ],
)
def test_what_does_not_fit_is_refused_as_torch_does(x, overrides, message):
    with pytest.raises(ValueError, match=message):
        made("BatchNorm")[1].forward(x, overrides)


# What cannot be had
class Otherwise(nn.Module):
    """A network that is another one when it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) * (1.001 if torch.compiler.is_exporting() else 1.0)


class Noisy(Otherwise):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) + torch.rand(1)


class Branching(Otherwise):
    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return logits if float(logits[0, 0]) > 0 else -logits


class Half(Otherwise):
    def __init__(self) -> None:
        super().__init__()
        self.network.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Otherwise, "answers otherwise on ONNX Runtime: .* apart, expected at most 1e-04; use runtime torch"),
        (Noisy, "cannot be exported to ONNX: it answers differently each time"),
        (Branching, "cannot be exported to ONNX: GuardOnDataDependentSymNode"),
        (Half, "cannot be exported to ONNX: it is not all of float32"),
    ],
)
def test_a_network_that_would_answer_otherwise_is_refused(kind, message, capsys):
    with pytest.raises(ValueError, match=message) as refused:
        exported(TorchBackbone(kind(), SHAPE))

    assert "\n" not in str(refused.value)
    assert "".join(capsys.readouterr()) == ""


def test_the_exporter_says_nothing_in_the_log_of_a_server(caplog):
    caplog.set_level("INFO")

    exported(TorchBackbone(small(), SHAPE))

    assert caplog.text == ""


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    def gone(name: str) -> None:
        raise ImportError(name)

    backbone = TorchBackbone(small(), SHAPE)
    monkeypatch.setattr(importlib, "import_module", gone)

    with pytest.raises(ValueError, match=r"ONNX needs onnxscript; install tta-server\[onnx\]"):
        exported(backbone)


def test_every_input_of_the_graph_moves_the_answer():
    torchs, onnx, _ = made("BatchNorm")
    x = images(3, (3, 32, 32))
    base = onnx.forward(x, {"bn.weight": torchs.norm_affine()["bn.weight"]})

    still = [
        name for name, tensor in replaceable(torchs).items() if distance(onnx.forward(x, {name: tensor + 1}), base) == 0
    ]

    assert still == []


def test_a_session_does_not_keep_the_file_that_it_was_made_of():
    backbone = TorchBackbone(reference_network(), SHAPE)
    file = graphs(backbone).source.filled(backbone)
    before = sys.getrefcount(file)
    session = OnnxSession(file, torch.device("cpu"))

    assert (sys.getrefcount(file), session.device.type) == (before, "cpu")


def test_who_has_learnt_nothing_has_the_bits_of_the_source():
    torchs, onnx, _ = made("BatchNorm")
    x, nothing = images(3, (3, 32, 32)), {name: tensor.clone() for name, tensor in replaceable(torchs).items()}

    for overrides in (nothing, {"bn.weight": nothing["bn.weight"]}):
        assert torch.equal(onnx.forward(x, overrides).logits, onnx.forward(x).logits)
    assert not torch.equal(
        onnx.forward(x, nothing | {"bn.weight": nothing["bn.weight"] + 1e-4}).logits, onnx.forward(x).logits
    )


class AgainstTheOthers(nn.Module):
    """Answers for an image by how it differs from all that are asked with it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = reference_network()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits - logits.mean(0, keepdim=True)


def rows_of_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the images of each run of a graph."""
    heard, run = list[int](), OnnxSession.run

    def listened(self: OnnxSession, feeds: dict[str, Tensor], made: Sequence[str]) -> list[Tensor]:
        heard.append(len(feeds["images"]))
        return run(self, feeds, made)

    monkeypatch.setattr(OnnxSession, "run", listened)
    return heard


def test_many_images_are_run_a_few_at_a_time(monkeypatch):
    torchs, onnx, layers = made("BatchNorm")
    most = 8 * torch.get_num_threads()
    x, heard = images(2 * most + 3, (3, 32, 32)), rows_of_runs(monkeypatch)
    moved = {name: tensor * 1.1 for name, tensor in replaceable(torchs).items()}
    expected = torchs.forward(x), torchs.forward(x, moved), torchs.styles(x, layers)[0]

    found, output = onnx.styles(x, layers)

    assert heard == [most, most, 3]
    assert distance(output, expected[0]) <= MOST_APART
    assert distance(onnx.forward(x, moved), expected[1]) <= MOST_APART
    assert distance(Output(found, output.logits), Output(expected[2], expected[0].logits)) <= MOST_APART


def test_images_are_run_together_where_rows_depend_on_one_another(monkeypatch):
    torch.manual_seed(0)
    torchs = TorchBackbone(AgainstTheOthers(), (3, 32, 32))
    onnx, x = exported(torchs), images(17 * torch.get_num_threads(), (3, 32, 32))
    heard = rows_of_runs(monkeypatch)

    assert not torchs.findings.apart
    assert distance(onnx.forward(x), torchs.forward(x)) <= MOST_APART
    assert heard == [len(x)]
