"""Small streams on the embedded model: cheap corruptions of its own test images, and what a guard makes of them."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tta_server.adapters import Adapter, State
from tta_server.guard.guard import Guard
from tta_server.guard.verdict import Memory, Verdict
from tta_server.models import Model, catalog, glyphs
from tta_server.settings import GuardSettings


@lru_cache
def model() -> Model:
    return catalog.load("glyphs")


@lru_cache
def all_images() -> tuple[Tensor, Tensor]:
    """Return images in [0, 1] and their classes, in a fixed random order."""
    images, labels = glyphs.images("test")
    order = np.random.default_rng(0).permutation(len(labels))
    return torch.from_numpy(images[order]).float() / 255, torch.from_numpy(labels[order])


def clean(start: int, count: int) -> Tensor:
    """Return some test images as they are."""
    return all_images()[0][start : start + count]


def foggy(x: Tensor) -> Tensor:
    """Return pale and noisy images, on which the frozen model errs often and a moderately adapted one seldom."""
    generator = torch.Generator().manual_seed(len(x))
    return (0.4 * x + 0.45 + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def make_guard(adapter: Adapter, **settings: object) -> Guard:
    return Guard(model().backbone, adapter, model().reference, GuardSettings(**settings))


def judged(guard: Guard, adapter: Adapter, memory: Memory, state: State, x: Tensor) -> Verdict:
    """Take a step on a window, and return what the guard makes of it."""
    backbone = model().backbone
    step = adapter.adapt(backbone, state, x)
    return guard.judge(memory, state, step, x, backbone.forward(x), adapter.predict(backbone, state, x))


@dataclass
class Trail:
    """What became of a stream."""

    state: State
    memory: Memory
    actions: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)


def follow(guard: Guard, adapter: Adapter, windows: list[Tensor]) -> Trail:
    """Show windows to a fresh stream and do what the guard says; to go back is to go back to the source here."""
    backbone = model().backbone
    initial = adapter.init(backbone, model().reference)
    trail = Trail(initial, guard.start())
    for x in windows:
        frozen = backbone.forward(x)
        admission = guard.admit(trail.memory, x, frozen)
        trail.memory = admission.memory
        if not admission.learn:
            trail.actions.append("skip")
            trail.causes.append(admission.cause)
            continue
        verdict = judged(guard, adapter, trail.memory, trail.state, x)
        trail.memory = verdict.memory
        if verdict.action == "commit":
            trail.state = verdict.state
        elif verdict.action != "reject":
            trail.state = initial
        trail.actions.append(verdict.action)
        trail.causes.append(verdict.cause)
    return trail
