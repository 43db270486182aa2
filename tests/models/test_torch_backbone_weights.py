"""Weights are replaced for a call, never changed."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from tests.models.small import SHAPE, TENSORS, Small, images, small
from tta_server.models import TorchBackbone


# Overrides
@settings(deadline=None, max_examples=40)
@given(names=st.sets(st.sampled_from(TENSORS)), seed=st.integers(0, 99))
def test_overrides_equal_a_module_whose_tensors_were_replaced(names, seed):
    module = small().eval()
    generator = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    overrides = {name: torch.rand(state[name].shape, generator=generator) + 0.1 for name in names}
    replaced = copy.deepcopy(module)
    replaced.load_state_dict(state | overrides)
    backbone = TorchBackbone(module, SHAPE)

    overridden, plain = backbone.forward(images(), overrides).logits, backbone.forward(images()).logits

    assert torch.equal(overridden, replaced(images()))
    assert torch.equal(plain, module(images()))
    assert backbone.digest() == backbone.spec.digest


def test_an_unknown_override_is_refused_by_name():
    with pytest.raises(ValueError, match=r"backbone 'small' has no tensor 'bn.gamma' to override"):
        TorchBackbone(small(), SHAPE).forward(images(), {"bn.gamma": torch.ones(4)})


@pytest.mark.parametrize(("name", "shape"), [("fc.bias", (1,)), ("bn.weight", ()), ("conv.weight", (4, 3, 1, 1))])
def test_an_override_of_another_shape_is_refused_even_if_it_would_broadcast(name, shape):
    with pytest.raises(ValueError, match=f"override '{name}' has shape"):
        TorchBackbone(small(), SHAPE).forward(images(), {name: torch.ones(shape)})


def test_a_refused_forward_leaves_the_backbone_usable():
    backbone = TorchBackbone(small(), SHAPE)
    before = backbone.forward(images()).logits

    with pytest.raises(RuntimeError):
        backbone.forward(images(), {"fc.weight": torch.ones(5, 4, dtype=torch.int32)})

    assert torch.equal(backbone.forward(images()).logits, before)
    assert backbone.digest() == backbone.spec.digest


@pytest.mark.parametrize("statistics", ["stored", "batch"])
def test_gradient_flows_through_overrides(statistics):
    backbone = TorchBackbone(small(), SHAPE)
    state = {name: tensor.clone().requires_grad_() for name, tensor in backbone.weights().items()}

    backbone.forward(images(), state, statistics).logits.square().sum().backward()

    # a bias in front of batch statistics cancels: its gradient is rounding
    cancelled = {"conv.bias"} if statistics == "batch" else set()
    assert all(state[name].grad.abs().max() > 1e-6 for name in state.keys() - cancelled)


def test_overriding_a_tied_weight_overrides_it_everywhere():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(192, 192, bias=False), nn.Linear(192, 192, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x.flatten(1)))

    backbone, weight = TorchBackbone(Tied(), SHAPE, head="second"), torch.rand(192, 192)

    logits = backbone.forward(images(), {"first.weight": weight}).logits

    assert_close(logits, images().flatten(1) @ weight.T @ weight.T)


# The digest
def test_the_digest_is_the_same_for_the_same_weights():
    assert TorchBackbone(small(), SHAPE).spec.digest == TorchBackbone(small(), SHAPE, name="other").spec.digest


@pytest.mark.parametrize("name", TENSORS)
def test_the_digest_changes_with_the_smallest_change_of_any_tensor(name):
    module = small()
    before = TorchBackbone(module, SHAPE).spec.digest
    value = module.state_dict()[name].view(-1)[-1:]

    value.copy_(torch.nextafter(value, torch.full_like(value, torch.inf)))

    assert TorchBackbone(module, SHAPE).spec.digest != before


def test_the_digest_changes_with_a_name_a_shape_and_a_type():
    class Named(nn.Module):
        def __init__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 5)
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1))

    variants = [
        Named("a", (2, 3), torch.float32),
        Named("b", (2, 3), torch.float32),
        Named("a", (3, 2), torch.float32),
        Named("a", (2, 3), torch.int32),
        Named("a", (), torch.int64),
        Named("a", (0,), torch.bool),
    ]

    assert len({TorchBackbone(module, SHAPE).spec.digest for module in variants}) == len(variants)


def test_a_damaged_weight_shows_in_the_digest():
    backbone = TorchBackbone(small(), SHAPE)

    backbone.weights()["fc.bias"].data[0] += 1

    assert backbone.digest() != backbone.spec.digest


# Threads
@pytest.mark.parametrize("statistics", ["stored", "batch"])
def test_threads_with_different_overrides_get_the_right_answers(statistics):
    backbone = TorchBackbone(small(), SHAPE)
    states = [{name: tensor * (1 + i) for name, tensor in backbone.norm_affine().items()} for i in range(8)]
    alone = [backbone.forward(images(i + 2), state, statistics) for i, state in enumerate(states)]
    barrier = threading.Barrier(8)

    def work(i: int) -> list:
        barrier.wait()
        return [backbone.forward(images(i + 2), states[i], statistics) for _ in range(25)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(8)))

    for expected, got in zip(alone, answers, strict=True):
        assert all(torch.equal(output.logits, expected.logits) for output in got)
        assert all(torch.equal(output.features, expected.features) for output in got)
        assert all(torch.equal(out.moments[k], v) for out in got for k, v in expected.moments.items())
    assert backbone.digest() == backbone.spec.digest


@pytest.mark.parametrize("verb", ["weights", "norm_affine", "norm_stats", "digest"])
def test_reading_the_weights_during_a_forward_of_another_thread_gives_the_frozen_ones(verb):
    reached, finish = threading.Event(), threading.Event()

    class Slow(Small):
        slow = False

        def forward(self, x: Tensor) -> Tensor:
            if self.slow:
                reached.set()
                assert finish.wait(10)
            return super().forward(x)

    torch.manual_seed(7)
    backbone = TorchBackbone(Slow(), SHAPE)
    overrides = {name: tensor + 1 for name, tensor in (backbone.weights() | backbone.norm_stats()).items()}

    def read() -> object:
        found = getattr(backbone, verb)()
        return found if verb == "digest" else {name: tensor.tolist() for name, tensor in found.items()}

    expected = read()
    Slow.slow = True

    with ThreadPoolExecutor(2) as pool:
        forward = pool.submit(backbone.forward, images(), overrides)
        assert reached.wait(10)
        reading = pool.submit(read)
        wait([reading], timeout=0.1)  # it would be over by then if it did not wait for the forward
        finish.set()
        forward.result(10)

    assert reading.result() == expected
