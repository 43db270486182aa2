"""A tiny network, adapters that misbehave, and a worker around them."""

import threading
import time
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import adapters
from adapters import Adapter, State, Step
from models import Backbone, Output, Reference, TorchBackbone
from tta_server.app import open_storage
from tta_server.runtime.answerer import Answer, Job
from tta_server.runtime.assemble import Kept, assemble
from tta_server.runtime.commands import Commands
from tta_server.runtime.worker import Worker
from tta_server.settings import load_settings
from tta_server.telemetry.metrics import Metrics

SHAPE = (3, 8, 8)


class Tiny(nn.Module):
    """A classifier with BatchNorm that costs next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


class BlindToWhite(Tiny):
    """Its answer to an image that is all white is not a number."""

    def forward(self, x: Tensor) -> Tensor:
        white = (x == 1).all(dim=(1, 2, 3), keepdim=True)
        return super().forward(x + torch.where(white, torch.nan, 0.0))


def tiny(network: type[Tiny] = Tiny) -> TorchBackbone:
    """Return a frozen tiny network with fixed weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return TorchBackbone(network(), SHAPE, name="tiny")


def rows(count: int, seed: int = 0) -> np.ndarray:
    """Return images (count, 3, 8, 8) as bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def hard_tent() -> Adapter:
    """Return an adapter that changes much with every step."""
    return adapters.create("tent", lr=0.1)


@dataclass(frozen=True)
class Fails:
    """Answers as the source model; every step raises."""

    name: ClassVar[str] = "fails"
    requires: ClassVar[frozenset[str]] = frozenset()
    output_kind: ClassVar[str] = "logits"
    stackable: ClassVar[bool] = False
    batch_coupled: ClassVar[bool] = False

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        return {"theta": torch.zeros(2)}

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        return backbone.forward(x)

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        raise RuntimeError("no step today")


@dataclass(frozen=True)
class Gated(Fails):
    """Answers only while the gate is open; says when it was entered."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)

    name: ClassVar[str] = "gated"

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        self.entered.set()
        assert self.gate.wait(30)
        return backbone.forward(x)

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        return Step(state, backbone.forward(x), {"accepted": torch.tensor(True)})


def metrics() -> Metrics:
    """Return metrics that nobody reads."""
    return Metrics("tiny", "tent")


class Wired(NamedTuple):
    """A worker and what operators may do to its streams."""

    worker: Worker
    commands: Commands
    kept: Kept


def wired(
    adapter: Adapter | None = None,
    window: int = 4,
    backbone: Backbone | None = None,
    storage: str = "",
    guard: bool = False,
    engine: dict | None = None,
    **streams: object,
) -> Wired:
    """Return a worker over a tiny network, and operators' commands for it."""
    settings = load_settings(
        None,
        {
            "engine": {"window_rows": window, **(engine or {})},
            "streams": streams,
            "storage": {"url": storage, "save_every_s": 0.0},
            "guard": {"enabled": guard},
        },
    )
    kept = open_storage(settings.storage)
    parts = assemble(backbone or tiny(), None, adapter or hard_tent(), settings, metrics(), kept)
    return Wired(*parts, kept)


def worker(
    adapter: Adapter | None = None, window: int = 4, backbone: Backbone | None = None, **streams: object
) -> Worker:
    """Return a worker over a tiny network; streams are not guarded."""
    return wired(adapter, window, backbone, **streams).worker


def ask(worker: Worker, stream: str, images: np.ndarray) -> Answer:
    """Answer one request alone."""
    job = Job(stream, images, time.monotonic())
    worker.answer([job])
    return job.future.result(0)


def learn_all(worker: Worker) -> None:
    """Learn until no window is due."""
    while (due_s := worker.due_s()) is not None and due_s <= time.monotonic():
        worker.learn(time.monotonic())


def shed_all(worker: Worker) -> None:
    """Drop windows until none is due."""
    while (due_s := worker.due_s()) is not None and due_s <= time.monotonic():
        worker.shed(time.monotonic())
