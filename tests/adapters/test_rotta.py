"""RoTTA's memory against a plain model of it, its update against an independent one, and what only it promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.networks import reference_network
from tta_server import adapters


def darker(images, index, generator):
    return images * 0.8


class PlainMemory:
    """The authors' category-balanced memory, as lists: (number, label, uncertainty, age)."""

    def __init__(self, capacity: int, classes: int) -> None:
        self.capacity, self.classes, self.items = capacity, classes, []

    def score(self, age: float, uncertainty: float) -> float:
        return 1 / (1 + math.exp(-age / self.capacity)) + uncertainty

    def add(self, number: int, label: int, uncertainty: float) -> None:
        counts = [sum(item[1] == c for item in self.items) for c in range(self.classes)]
        among = None
        if counts[label] >= self.capacity / self.classes:
            among = {label}
        elif len(self.items) >= self.capacity:
            among = {c for c in range(self.classes) if counts[c] == max(counts)}
        write = True
        if among is not None:
            worst = max((i for i in self.items if i[1] in among), key=lambda i: self.score(i[3], i[2]))
            write = self.score(worst[3], worst[2]) > self.score(0, uncertainty)
            if write:
                self.items.remove(worst)
        if write:
            self.items.append([number, label, uncertainty, 0])
        for item in self.items:
            item[3] += 1


@settings(max_examples=40, deadline=None)
@given(data=st.data(), capacity=st.integers(2, 6), classes=st.integers(2, 4))
def test_the_memory_keeps_what_a_plain_model_keeps(data, capacity, classes):
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=15))
    # Distinct uncertainties, so that no score ties: a tie may be broken either way.
    certain = data.draw(st.permutations(range(len(labels))))
    sharpness = torch.tensor([1.0 + 0.37 * c for c in certain])
    logits = torch.nn.functional.one_hot(torch.tensor(labels), classes) * sharpness[:, None]
    numbers = torch.arange(1, len(labels) + 1)
    x = (numbers / 255).view(-1, 1, 1, 1)
    adapter = adapters.create("rotta", capacity=capacity)
    memory = {
        "images": torch.zeros(capacity, 1, 1, 1, dtype=torch.uint8),
        "labels": torch.zeros(capacity, dtype=torch.int64),
        "entropy": torch.zeros(capacity),
        "age": torch.zeros(capacity),
        "used": torch.zeros(capacity, dtype=torch.bool),
    }
    plain = PlainMemory(capacity, classes)
    p = logits.softmax(1)
    uncertainty = -(p * p.log()).sum(1) / math.log(classes)

    kept = adapter._remember(memory, x, logits)

    for number, label, value in zip(numbers.tolist(), labels, uncertainty.tolist(), strict=True):
        plain.add(number, label, value)
    assert sorted(kept["images"][kept["used"]].flatten().tolist()) == sorted(item[0] for item in plain.items)
    ages = dict(zip(kept["images"].flatten().tolist(), kept["age"].tolist(), strict=True))
    assert all(ages[item[0]] == item[3] for item in plain.items)


def independent(images, ages, batches: int):
    """One update on a full memory: torch modules whose BatchNorm mixes statistics as the authors' RobustBN does."""
    share = 0.05
    student, teacher = reference_network().eval(), reference_network().eval()
    moved = {}

    def robust(name, which):
        def forward(layer, args):
            x = args[0]
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            unbiased = var * (x.numel() / x.shape[1]) / (x.numel() / x.shape[1] - 1)
            moved[which, f"{name}.running_mean"] = torch.lerp(layer.running_mean, mean.detach(), share)
            moved[which, f"{name}.running_var"] = torch.lerp(layer.running_var, unbiased.detach(), share)
            m, v = torch.lerp(layer.running_mean, mean, share), torch.lerp(layer.running_var, var, share)
            y = (x - m[None, :, None, None]) / torch.sqrt(v + layer.eps)[None, :, None, None]
            return y * layer.weight[None, :, None, None] + layer.bias[None, :, None, None]

        return forward

    named = {}
    for which, network in (("student", student), ("teacher", teacher)):
        network.requires_grad_(False)
        for path, layer in network.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                function = robust(path, which)
                layer.forward = lambda x, layer=layer, function=function: function(layer, (x,))
                if which == "student":
                    named |= {f"{path}.{n}": p.requires_grad_(True) for n, p in layer.named_parameters()}
    optimizer = torch.optim.Adam(named.values(), lr=1e-3)
    weight = torch.exp(-ages / 64) / (1 + torch.exp(-ages / 64))
    target = teacher(images).softmax(1)
    loss = (-(target * student(darker(images, 0, None)).log_softmax(1)).sum(1) * weight).mean()
    loss.backward()
    optimizer.step()
    return {n: p.detach() for n, p in named.items()}, moved


def test_an_update_equals_an_independent_implementation(backbone, batches):
    adapter = adapters.create("rotta", augment=darker)
    images = (batches[:4].flatten(0, 1) * 255).round() / 255
    ages = torch.arange(64, 0, -1).float()
    state = dict(adapter.init(backbone))
    memory = {
        "images": (images * 255).round().to(torch.uint8),
        "labels": torch.zeros(64, dtype=torch.int64),
        "entropy": torch.zeros(64),
        "age": ages,
        "used": torch.ones(64, dtype=torch.bool),
    }

    new, _ = adapter._learn(backbone, state, memory, images[:16])

    parameters, moved = independent(images, ages, 1)
    source = backbone.norm_affine()
    for name, tensor in parameters.items():
        torch.testing.assert_close(new[f"theta/{name}"], tensor, atol=1e-5, rtol=0)  # Adam amplifies rounding
        expected = 0.999 * source[name] + 0.001 * tensor
        torch.testing.assert_close(new[f"teacher/{name}"], expected, atol=1e-6, rtol=0)
    for (which, name), tensor in moved.items():
        group = "stats" if which == "student" else "teacher"
        torch.testing.assert_close(new[f"{group}/{name}"], tensor, atol=1e-5, rtol=1e-5)


def test_an_update_comes_once_the_memorys_worth_of_images_was_seen(backbone, batches):
    adapter = adapters.create("rotta", capacity=40)
    state = adapter.init(backbone)

    updates = []
    for batch in batches[:6]:
        step = adapter.adapt(backbone, state, batch)
        updates.append("loss" in step.scalars)
        state = step.state

    assert updates == [False, False, True, False, False, True]


def test_images_are_remembered_as_bytes(backbone, batch):
    adapter = adapters.create("rotta")

    state = adapter.adapt(backbone, adapter.init(backbone), batch).state

    used = state["memory/used"]
    assert state["memory/images"].dtype == torch.uint8
    known = {image.numpy().tobytes() for image in (batch * 255).round().to(torch.uint8)}
    assert all(image.numpy().tobytes() in known for image in state["memory/images"][used])


@pytest.mark.parametrize(
    ("setting", "value"), [("capacity", 1), ("teacher_share", 0.0), ("stats_momentum", 2.0), ("lr", 0.0)]
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ValueError, match=setting):
        adapters.create("rotta", **{setting: value})
