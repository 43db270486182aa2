"""A network that two threads run at the same time: the same answers and weights, and no waiting for each other."""

import threading

import pytest
import torch

from tests.models import odd
from tests.models.odd import SHAPE, drawn
from tests.models.small import images, small
from tests.models.test_odd import SERVED, served
from tests.states import bits
from tta_server import adapters
from tta_server.adapters.stack import adapt_stacked
from tta_server.models import EMPTY, TorchBackbone


@pytest.mark.parametrize("kind", SERVED)
def test_a_twin_says_the_same_bit_for_bit(kind):
    backbone, x = served(kind), images(5)
    twin = backbone.twin()

    for rows in (x, x[:1]):
        for statistics in ("stored", "batch") if len(rows) > 1 and backbone.norm_stats() else ("stored",):
            for found, expected in zip(
                twin.forward(rows, EMPTY, statistics), backbone.forward(rows, EMPTY, statistics), strict=True
            ):
                assert str(found) == str(expected) if isinstance(found, dict) else torch.equal(found, expected)
    assert twin.findings == backbone.findings
    assert twin.digest() == backbone.digest() == backbone.spec.digest


@pytest.mark.parametrize("kind", [*SERVED, odd.Plain])
def test_a_twin_holds_no_weights_of_its_own(kind):
    backbone = served(kind)

    own, other = backbone.weights(), backbone.twin().weights()

    assert {name: tensor.data_ptr() for name, tensor in own.items()} == {
        name: tensor.data_ptr() for name, tensor in other.items()
    }


def test_a_twin_does_not_wait_for_a_forward():
    backbone = TorchBackbone(small(), SHAPE)
    twin, x = backbone.twin(), images(2)
    found = []
    with backbone.traced():  # as if a forward were under way
        asked = threading.Thread(target=lambda: found.append(twin.forward(x)))
        asked.start()
        asked.join(30)

    assert found
    assert torch.equal(found[0].features, backbone.forward(x).features)


def test_overrides_and_statistics_of_one_are_not_the_others():
    backbone = TorchBackbone(small(), SHAPE)
    twin, x = backbone.twin(), images(8)
    expected = backbone.forward(x, EMPTY, "batch")
    moved = {name: 2 * tensor for name, tensor in backbone.norm_affine().items()}
    wrong = []

    def ask() -> None:
        for _ in range(100):
            output = backbone.forward(x, EMPTY, "batch")
            wrong.extend(
                name for name, tensor in output.moments.items() if not torch.equal(tensor, expected.moments[name])
            )
            if not torch.equal(output.logits, expected.logits):
                wrong.append("logits")

    asked = threading.Thread(target=ask)
    asked.start()
    while asked.is_alive():
        twin.forward(x, moved)
    asked.join()

    assert not wrong


@pytest.mark.parametrize("name", ["tent", "cotta"])
def test_a_step_on_a_twin_is_that_of_the_network_while_that_answers(name):
    backbone = TorchBackbone(small(), SHAPE)
    twin, x, adapter = backbone.twin(), images(8), adapters.create(name)
    state = adapter.init(backbone)
    expected, stop = adapter.adapt(backbone, state, x), threading.Event()

    def answer() -> None:
        while not stop.is_set():
            adapter.predict(backbone, state, x[:3])

    answers = threading.Thread(target=answer)
    answers.start()
    try:
        steps = [adapter.adapt(twin, state, x) for _ in range(20)]
        together = adapt_stacked(adapter, twin, [state, state], torch.stack([x, x])) if adapter.stackable else []
    finally:
        stop.set()
        answers.join()

    assert all(bits(step.state) == bits(expected.state) for step in steps)
    assert len(together) == (2 if adapter.stackable else 0)


class Unique(odd.Plain):
    """Can be copied once."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0

    def __deepcopy__(self, memo):
        if self.copies:
            raise TypeError("one copy is enough")
        copied = drawn(type(self))
        copied.copies = 1
        return copied


def test_a_network_that_cannot_be_copied_once_more_is_its_own_twin():
    backbone = TorchBackbone(drawn(Unique), SHAPE)

    assert backbone.twin() is backbone
