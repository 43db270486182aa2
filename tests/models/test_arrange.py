"""Networks in other types of numbers and another order in memory: what changes, and what must not."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.networks import bundle, layer_norm_network, reference_network
from tta_server.adapters import registered
from tta_server.adapters.checkpoint import dump_state, load_state, state_digest
from tta_server.inspect_command import attempt
from tta_server.models import Custom, Model, Preprocess, catalog, load

NETWORKS = {"batch norm": reference_network, "layer norm": layer_norm_network}


def served(kind: str, side: int = 32, **custom: str) -> Model:
    asked = Custom(preprocess=Preprocess((side, side)), **custom)
    return load(f"tests.models.test_arrange:{kind.replace(' ', '_')}", custom=asked)


def batch_norm() -> nn.Module:
    return reference_network()


def layer_norm() -> nn.Module:
    return layer_norm_network()


def batch_norm_channels_last() -> nn.Module:
    return batch_norm().to(memory_format=torch.channels_last)


class View(nn.Module):
    """A network that only runs where each channel is one piece of memory."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 4, 8, 8), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(len(x), -1))


class Order(View):
    """A network that answers by how its maps lie."""

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return self.head(maps.as_strided((len(x), 64), (64, 1)))


def view() -> nn.Module:
    return View()


def order() -> nn.Module:
    return Order()


def images(side: int = 32) -> Tensor:
    return torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_channels_last_is_what_convolutions_are_given_and_changes_neither_digest_nor_answers():
    plain, other = (served("batch norm", memory_format=each).backbone for each in ("contiguous", "channels_last"))
    seen: list[Tensor] = []
    other._module.get_submodule("conv").register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    answered = other.forward(images())

    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert (other.spec.memory_format, plain.spec.memory_format) == ("channels_last", "contiguous")
    assert other.spec.digest == plain.spec.digest
    assert_close(answered.logits, plain.forward(images()).logits, atol=1e-5, rtol=1e-4)
    assert other.findings == plain.findings


@pytest.mark.parametrize("asked", ["contiguous", "channels_last"])
def test_a_network_lies_as_it_is_asked_to_however_its_factory_laid_it(asked):
    usual, other = (served(kind, memory_format=asked) for kind in ("batch norm", "batch norm channels last"))

    assert (other.backbone.spec.memory_format, other.memory) == (asked, asked)
    assert torch.equal(*(model.backbone.forward(images()).logits for model in (usual, other)))


@pytest.mark.parametrize("adapter", registered(), ids=lambda adapter: adapter.name)
def test_a_state_that_was_in_a_file_answers_and_learns_bit_for_bit_in_channels_last(adapter):
    backbone = served("batch norm", memory_format="channels_last").backbone
    reference = bundle(backbone)
    state = adapter.adapt(backbone, adapter.init(backbone, reference), images()).state

    read = load_state(adapter, backbone, dump_state(adapter, backbone, state), reference)

    assert torch.equal(*(adapter.predict(backbone, each, images()).logits for each in (state, read)))
    assert len({state_digest(adapter.adapt(backbone, each, images()).state) for each in (state, read)}) == 1


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_answers_are_near_and_whatever_could_learn_learns_in_full(kind, dtype):
    full, half = served(kind, 16), served(kind, 16, dtype=dtype)
    exact, near = (model.backbone.forward(images(16)).logits for model in (full, half))

    assert near.dtype == getattr(torch, dtype)
    assert_close(near.float(), exact, atol=0.05 * float(exact.abs().max()), rtol=0)
    assert {tensor.dtype for tensor in half.backbone.norm_affine().values()} == {torch.float32}
    assert half.backbone.spec.digest != full.backbone.spec.digest
    assert half.backbone.findings.apart
    for adapter in registered():
        tried = [
            attempt(adapter, Model(each.backbone, each.preprocess, (), bundle(each.backbone))) for each in (full, half)
        ]
        assert tried[0] == tried[1], adapter.name


@pytest.mark.parametrize(("share", "taken"), [(0.8, "channels_last"), (0.97, "contiguous"), (1.3, "contiguous")])
def test_auto_takes_the_order_that_answers_clearly_faster_and_says_so(share, taken, monkeypatch):
    monkeypatch.setattr(catalog, "compare", lambda _other, _plain: share)

    model = served("batch norm", memory_format="auto")

    assert model.backbone.spec.memory_format == taken
    assert model.memory.startswith(taken)
    assert f"{share:.2f} of its time" in model.memory


@pytest.mark.parametrize(("kind", "said"), [("view", "does not run"), ("order", "answers otherwise")])
def test_auto_leaves_a_network_as_it_is_that_fails_or_answers_otherwise_in_another_order(kind, said, monkeypatch):
    monkeypatch.setattr(catalog, "compare", lambda _other, _plain: 0.5)

    model = served(kind, memory_format="auto")

    assert model.backbone.spec.memory_format == "contiguous"
    assert said in model.memory
    assert torch.equal(*(each.backbone.forward(images()).logits for each in (model, served(kind))))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_auto_does_not_take_rounding_for_another_answer(dtype, monkeypatch):
    monkeypatch.setattr(catalog, "compare", lambda _other, _plain: 0.5)

    assert served("batch norm", memory_format="auto", dtype=dtype).memory.startswith("channels_last")


def test_a_network_that_fails_in_the_order_that_is_asked_for_is_refused():
    with pytest.raises(ValueError, match="view"):
        served("view", memory_format="channels_last")


def test_a_network_without_convolutions_of_maps_is_left_as_it_is():
    assert load("glyphs", custom=Custom(memory_format="contiguous")).memory == "contiguous"
    assert served("layer norm", dtype="float32").backbone.spec.digest == served("layer norm").backbone.spec.digest
