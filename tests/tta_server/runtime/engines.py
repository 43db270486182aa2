"""Engines over a tiny network, and what tests ask them."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from tests.tta_server.runtime.fakes import Gated, rows, submit, tiny, wired
from tta_server.adapters import Adapter, State, Step
from tta_server.models import Backbone, Output
from tta_server.runtime.job import Answer
from tta_server.runtime.queue.engine import Engine
from tta_server.runtime.queue.room import Room
from tta_server.settings import EngineSettings

PATIENCE_S = 30


class SlowStep(Gated):
    """Answers at once; a step waits for the gate."""

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        return backbone.forward(x)

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        return super().adapt(backbone, state, x)


def make(adapter: Adapter | None = None, backbone=None, streams: dict | None = None, **keys: object) -> Engine:
    settings = EngineSettings(**({"max_rows": 8, "max_queue_rows": 32, "window_rows": 4} | keys))
    parts = wired(adapter, settings.window_rows, backbone, engine=settings.model_dump(), **(streams or {}))
    return Engine(parts.worker, parts.commands, Room(settings.max_queue_rows, 2**30), settings, parts.metrics)


@contextmanager
def running(*args: object, **keys: object) -> Iterator[Engine]:
    engine = make(*args, **keys)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@contextmanager
def gated(kind: type[Gated] = Gated, **keys: object) -> Iterator[tuple[Engine, Gated, "Future[Answer]"]]:
    """Yield an engine whose device thread is busy with a request until the gate is opened."""
    adapter = kind()
    adapter.gate.set()
    with running(adapter, **keys) as engine:
        adapter.gate.clear()
        adapter.entered.clear()
        busy = submit(engine, "busy", rows(1))
        assert adapter.entered.wait(PATIENCE_S)
        try:
            yield engine, adapter, busy
        finally:
            adapter.gate.set()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


def answer(engine: Engine, stream: str = "door", images: np.ndarray | None = None) -> Answer:
    return submit(engine, stream, rows(2) if images is None else images).result(PATIENCE_S)


def read(engine: Engine, stream: str = "door") -> dict:
    return engine.command(lambda commands: commands.read(stream)).result(PATIENCE_S)


def listed(engine: Engine) -> list[dict]:
    return engine.command(lambda commands: commands.list().streams).result(PATIENCE_S)


def answer_of(images: np.ndarray) -> np.ndarray:
    return tiny().forward(torch.from_numpy(images).float() / 255).logits.softmax(1).numpy()
