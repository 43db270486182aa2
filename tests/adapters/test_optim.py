import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tta_server.adapters.optim import Optimizer

FAST = settings(deadline=None, max_examples=40)
SHAPES = {"a.weight": (5,), "b.bias": (2, 3), "c": (1,)}

learning_rates = st.floats(1e-5, 1e-1)
decays = st.one_of(st.sampled_from([0.0, 0.9, 0.999]), st.floats(0, 0.999))
seeds = st.integers(0, 999)


def draws(seed: int, steps: int) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Return parameters and gradients of very different sizes."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> dict[str, Tensor]:
        return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}

    return draw(), [{name: tensor * 10.0 ** (i % 5 - 3) for name, tensor in draw().items()} for i in range(steps)]


def torch_steps(kind: type, start: dict[str, Tensor], gradients: list[dict[str, Tensor]], **settings: object) -> list:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimizer = kind(list(leaves.values()), **settings)
    path = []
    for gradient in gradients:
        for name, leaf in leaves.items():
            leaf.grad = gradient[name].clone()
        optimizer.step()
        path.append({name: leaf.detach().clone() for name, leaf in leaves.items()})
    return path


def our_steps(optimizer: Optimizer, start: dict[str, Tensor], gradients: list[dict[str, Tensor]]) -> list:
    parameters, slots, path = start, optimizer.init(start), []
    for gradient in gradients:
        parameters, slots = optimizer.step(parameters, gradient, slots)
        path.append(parameters)
    return path


@FAST
@given(lr=learning_rates, momentum=decays, seed=seeds, steps=st.integers(1, 8))
def test_sgd_takes_the_steps_of_torchs(lr, momentum, seed, steps):
    start, gradients = draws(seed, steps)

    ours = our_steps(Optimizer("sgd", lr, momentum), start, gradients)

    for one, two in zip(ours, torch_steps(torch.optim.SGD, start, gradients, lr=lr, momentum=momentum), strict=True):
        assert_close(one, two, atol=1e-6, rtol=1e-6)


@FAST
@given(
    lr=learning_rates,
    betas=st.tuples(decays, decays),
    eps=st.sampled_from([1e-8, 1e-3]),
    seed=seeds,
    steps=st.integers(1, 8),
)
def test_adam_takes_the_steps_of_torchs(lr, betas, eps, seed, steps):
    start, gradients = draws(seed, steps)

    ours = our_steps(Optimizer("adam", lr, betas=betas, eps=eps), start, gradients)

    reference = torch_steps(torch.optim.Adam, start, gradients, lr=lr, betas=betas, eps=eps)
    for one, two in zip(ours, reference, strict=True):
        assert_close(one, two, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_step_changes_nothing_that_it_is_given(name):
    optimizer = Optimizer(name, 0.1, 0.9)
    start, (first, second) = draws(0, 2)
    _, slots = optimizer.step(start, first, optimizer.init(start))
    given = [{key: tensor.clone() for key, tensor in tensors.items()} for tensors in (start, second, slots)]

    optimizer.step(start, second, slots)

    for before, after in zip(given, (start, second, slots), strict=True):
        assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_slots_keep_their_names_shapes_and_types(name, dtype):
    optimizer = Optimizer(name, 0.1, 0.9)
    start, gradients = draws(0, 1)
    start, gradient = ({key: tensor.to(dtype) for key, tensor in tensors.items()} for tensors in (start, gradients[0]))
    empty = optimizer.init(start)

    moved, slots = optimizer.step(start, gradient, empty)

    assert {key: (t.shape, t.dtype) for key, t in slots.items()} == {k: (t.shape, t.dtype) for k, t in empty.items()}
    assert {key: (t.shape, t.dtype) for key, t in moved.items()} == {k: (t.shape, t.dtype) for k, t in start.items()}


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_other_tensors_among_the_slots_are_ignored(name):
    optimizer = Optimizer(name, 0.1, 0.9)
    start, (gradient,) = draws(0, 1)
    slots = optimizer.init(start)

    plain, mixed = (optimizer.step(start, gradient, s) for s in (slots, slots | {"theta/a": torch.zeros(2)}))

    assert plain[1].keys() == mixed[1].keys()
    assert all(torch.equal(plain[0][key], mixed[0][key]) for key in start)


def test_nothing_to_learn_is_no_error():
    for name in ("sgd", "adam"):
        optimizer = Optimizer(name, 0.1)

        assert optimizer.step({}, {}, optimizer.init({}))[0] == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adamw"}, "optimizer must be 'sgd' or 'adam', got 'adamw'"),
        ({"lr": 0.0}, "lr must be > 0 and finite, got 0.0"),
        ({"lr": -1e-3}, "lr must be > 0"),
        ({"lr": float("nan")}, "lr must be > 0 and finite, got nan"),
        ({"lr": float("inf")}, "lr must be > 0 and finite, got inf"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, "momentum must be in"),
        ({"momentum": float("nan")}, "momentum must be in"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ({"betas": (-0.1, 0.9)}, "betas must be two"),
        ({"betas": (0.9,)}, "betas must be two"),
        ({"betas": (0.9, 0.99, 0.999)}, "betas must be two"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Optimizer(**{"name": "sgd", "lr": 0.1, **settings})
