"""What networks write into themselves: no request shows in the answer to another."""

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from tests.models import odd
from tests.models.odd import SHAPE, drawn
from tests.models.small import images
from tta_server.models import TorchBackbone


class Stateful(odd.Plain):
    """Takes from each image what it has kept of those before."""

    def __init__(self) -> None:
        super().__init__()
        self.start()

    def start(self) -> None:
        self.mean = torch.zeros(3)

    def keep(self, x: Tensor) -> None:
        raise NotImplementedError

    def kept(self) -> Tensor:
        return self.mean

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x - self.kept().view(1, 3, 1, 1))
        self.keep(x.detach())
        return logits


class Attribute(Stateful):
    def keep(self, x: Tensor) -> None:
        self.mean = 0.9 * self.mean + 0.1 * x.mean((0, 2, 3))


class InPlace(Stateful):
    def keep(self, x: Tensor) -> None:
        self.mean.data.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))


class Parameter(Stateful):
    def start(self) -> None:
        self.mean = nn.Parameter(torch.zeros(3), requires_grad=False)

    def keep(self, x: Tensor) -> None:
        self.mean.data.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))


class Buffer(Stateful):
    def start(self) -> None:
        self.register_buffer("mean", torch.zeros(3), persistent=False)

    keep = Attribute.keep


class LateBuffer(Buffer):
    def keep(self, x: Tensor) -> None:
        if len(x) >= 8:
            super().keep(x)


class LateAttribute(Attribute):
    def keep(self, x: Tensor) -> None:
        if len(x) >= 8:
            super().keep(x)


class EmptyBuffer(Stateful):
    def start(self) -> None:
        self.register_buffer("mean", None)

    def keep(self, x: Tensor) -> None:
        self.mean = x.mean((0, 2, 3)) / 9

    def kept(self) -> Tensor:
        return torch.zeros(3) if self.mean is None else self.mean


class Bank(Stateful):
    def start(self) -> None:
        self.bank = deque(maxlen=4)

    def keep(self, x: Tensor) -> None:
        self.bank.append(x.mean((0, 2, 3)) / 9)

    def kept(self) -> Tensor:
        return sum(self.bank, torch.zeros(3))


class ByName(Stateful):
    def start(self) -> None:
        self.about = {"means": [torch.zeros(3)], "seen": 0}

    def keep(self, x: Tensor) -> None:
        self.about["means"][0].add_(x.mean((0, 2, 3)) / 9)
        self.about["seen"] += 1

    def kept(self) -> Tensor:
        return self.about["means"][0] + self.about["seen"] / 9


class Counter(Stateful):
    def start(self) -> None:
        self.seen = 0

    def keep(self, x: Tensor) -> None:
        self.seen += 1

    def kept(self) -> Tensor:
        return torch.full((3,), self.seen / 9)


class Made(Stateful):
    def start(self) -> None:
        pass

    def keep(self, x: Tensor) -> None:
        self.before = x.mean((0, 2, 3)) / 9

    def kept(self) -> Tensor:
        return getattr(self, "before", torch.zeros(3))


class First(Stateful):
    """Keeps the first images of each number, as a cache by shape does."""

    def start(self) -> None:
        self.last = None

    def keep(self, x: Tensor) -> None:
        if self.last is None or len(self.last) != len(x):
            self.last = x

    def kept(self) -> Tensor:
        return torch.zeros(3) if self.last is None else self.last.mean((0, 2, 3)) / 9


KINDS = [
    Attribute, InPlace, Parameter, Buffer, LateBuffer, LateAttribute, EmptyBuffer, Bank, ByName, Counter, Made, First,
]  # fmt: skip
BACKBONES = {kind: TorchBackbone(drawn(kind), SHAPE) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.sampled_from([1, 2, 3, 7, 8, 9, 20]), max_size=4), seed=st.integers(0, 99))
def test_an_answer_is_that_of_the_network_as_it_was_frozen_whatever_was_asked_before(kind, sizes, seed):
    backbone, x = BACKBONES[kind], images(3)
    _ = backbone.findings
    moved = {"bn.weight": torch.full((16,), 1.5)}
    with torch.no_grad():
        said = drawn(kind).eval()(x)

    for rows in sizes:
        others = torch.rand(rows, *SHAPE, generator=torch.Generator().manual_seed(seed))
        backbone.forward(others)
        backbone.forward(others, moved, "batch" if rows > 1 else "stored")
        backbone.forward_stacked(others[None], {})

    assert_close(backbone.forward(x).logits, said, atol=1e-5, rtol=1e-5)
    assert backbone.findings.repeats
    assert backbone.findings.apart
    assert backbone.digest() == backbone.spec.digest


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not LateAttribute])
def test_without_a_trial_of_many_the_second_request_is_still_not_told_of_the_first(kind):
    backbone, x = TorchBackbone(drawn(kind), SHAPE), images(3)
    with torch.no_grad():
        said = drawn(kind).eval()(x)

    for rows in (20, 1, 20):
        backbone.forward(torch.rand(rows, *SHAPE))
        assert_close(backbone.forward(x).logits, said, atol=1e-5, rtol=1e-5)


def test_a_buffer_that_is_written_late_is_put_back_and_told_once(caplog):
    backbone = TorchBackbone(drawn(LateBuffer), SHAPE)
    twin = backbone.twin()
    caplog.clear()
    another = TorchBackbone(drawn(LateBuffer), SHAPE)

    for _ in range(3):
        another.forward(images(9))

    assert caplog.text.count("buffer 'mean' was written in a forward") == 1
    assert_close(twin.forward(images(3)).logits, drawn(LateBuffer).eval()(images(3)), atol=1e-5, rtol=1e-5)


def test_what_is_written_is_named():
    said = {kind: BACKBONES[kind].findings.remarks for kind in KINDS}

    end = ": written in forward, and as frozen in each"
    assert said[Parameter]["buffers"] == said[Buffer]["buffers"] == said[LateBuffer]["buffers"] == f"mean{end}"
    assert said[Attribute]["attributes"] == said[InPlace]["attributes"] == said[LateAttribute]["attributes"]
    assert said[Made]["attributes"] == f"before{end}"
    assert said[ByName]["attributes"] == f"about{end}"
    assert not {"buffers", "attributes"} & TorchBackbone(drawn(odd.Plain), SHAPE).findings.remarks.keys()


class Computed(odd.Plain):
    """Computes a weight from another once."""

    made = 0
    weight = None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            type(self).made += 1
            self.weight = self.bn.weight * 2
        return super().forward(x) + self.weight.mean()


def test_an_attribute_that_no_image_decides_is_made_once():
    backbone = TorchBackbone(drawn(Computed), SHAPE)
    made = Computed.made

    answer = backbone.forward(images()).logits

    assert Computed.made == made
    assert "attributes" not in backbone.findings.remarks
    assert_close(answer, drawn(Computed).eval()(images()))


@pytest.mark.parametrize("kind", [Attribute, Parameter, LateBuffer, Bank])
def test_two_threads_with_a_twin_each_answer_as_one(kind):
    backbone = TorchBackbone(drawn(kind), SHAPE)
    twin, x = backbone.twin(), images(3)

    assert twin is not backbone
    twin.forward(images(9))
    backbone.forward(images(8))
    assert_close(twin.forward(x).logits, backbone.forward(x).logits)
    assert_close(twin.forward(x).logits, drawn(kind).eval()(x), atol=1e-5, rtol=1e-5)
