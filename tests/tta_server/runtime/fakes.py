"""A tiny network, adapters that misbehave, and a worker around them."""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from torch import Tensor, nn

from tta_server import adapters
from tta_server.adapters import Adapter, State, Step
from tta_server.app import open_storage
from tta_server.domains.space import PART, fit
from tta_server.guard.judge import Judge
from tta_server.guard.verdict import Admission, Memory, Verdict
from tta_server.models import Backbone, Output, Reference, TorchBackbone
from tta_server.runtime import assemble as assembly
from tta_server.runtime.assemble import Runs, assemble
from tta_server.runtime.commands.desk import Who
from tta_server.runtime.commands.stream_commands import Commands
from tta_server.runtime.job import Answer, Job
from tta_server.runtime.queue.engine import Engine
from tta_server.runtime.served import Storage
from tta_server.runtime.work.worker import Worker
from tta_server.settings import AdapterSettings
from tta_server.settings_file import load_settings
from tta_server.storage.audit import Entry
from tta_server.streams.stream import Method, Stream
from tta_server.streams.window import prepared
from tta_server.telemetry.metrics import Metrics, render

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


def dark(count: int, seed: int = 0) -> np.ndarray:
    """Return images (count, 3, 8, 8) that look like `rows` in the dark."""
    return rows(count, seed) // 4


def bright(count: int, seed: int = 0) -> np.ndarray:
    """Return images (count, 3, 8, 8) that look like `rows` in glaring light."""
    return 255 - rows(count, seed) // 4


def styled(backbone: Backbone) -> Reference:
    """Return a bundle that says how `rows` look to a tiny network, and nothing else."""
    x = torch.from_numpy(rows(400, 1000)).float() / 255
    styles, output = backbone.styles(x, ("bn",))
    assert output is not None
    space = fit(("bn",), styles[:300], styles[300:], output.logits[:300].argmax(1))
    tensors = {f"{PART}/mean": space.mean.float(), f"{PART}/whitener": space.whitener.float()}
    return Reference(backbone.spec.digest, tensors, {PART: {"layers": ["bn"], "images": 300, "limit": 3.0}})


def hard_tent() -> Adapter:
    """Return an adapter that changes much with every step."""
    return adapters.create("tent", lr=0.1)


@dataclass(frozen=True)
class Fails(Adapter):
    """Answers as the source model; every step raises."""

    name: ClassVar[str] = "fails"
    requires: ClassVar[frozenset[str]] = frozenset()
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


@dataclass(frozen=True)
class Picky(Fails):
    """Stacks, but breaks on a bright window; in a stack it cannot even tell which that is."""

    stackable: ClassVar[bool] = True

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        if x.mean() > 0.9:
            raise RuntimeError("too bright")
        return Step({"theta": state["theta"] + 1}, backbone.forward(x), {"accepted": torch.tensor(True)})


@dataclass(frozen=True)
class Scripted:
    """A guard that says what it was told to, window by window of each stream, and then starts again.

    Attributes:
        words: "pass" commits what passed the complete check; "commit", "reject", "rollback", "reset", "skip"; "fail"
            raises an error. With "/source" behind it, the source answers from then on.
    """

    words: tuple[str, ...]

    def start(self) -> Memory:
        return {"turn": torch.zeros(())}

    def admit(self, memory: Memory, x: Tensor, frozen: Output) -> Admission:
        assert len(frozen.logits) == len(x), "the source was not asked about this window"
        word, serve = self._word(memory)
        if word == "skip":
            return Admission(False, "too_few_pictures", "as told", self._next(memory), serve)
        return Admission(True, "healthy", "as told", memory)

    def look(self, memory: Memory, x: Tensor, frozen: Output, answered: Output) -> Admission:
        serve = self._word({"turn": (memory["turn"] - 1).clamp(min=0)})[1]
        return Admission(False, "healthy", "as told", memory, serve)

    def weigh(self, memory: Memory, x: Tensor, frozen: Output, answered: Output) -> tuple[Memory, str]:
        return memory, "adapted"

    def judge(self, memory: Memory, old: State, step: Step, x: Tensor, frozen: Output, answered: Output) -> Verdict:
        assert len(answered.logits) == len(x), "the stream was not asked about this window"
        word, serve = self._word(memory)
        if word == "fail":
            raise RuntimeError("no verdict today")
        after = self._next(memory)
        if word in ("commit", "pass"):
            return Verdict("commit", "healthy", "as told", step.state, after, serve, word == "pass", {"diversity": 0.5})
        return Verdict(word, "canary", "as told", old, after, serve)

    def vet(self, state: State, initial: State, closely: bool = True) -> None:
        return None

    def _word(self, memory: Memory) -> tuple[str, str]:
        word, _, serve = self.words[int(memory["turn"]) % len(self.words)].partition("/")
        return word, serve or "adapted"

    def _next(self, memory: Memory) -> Memory:
        return {"turn": memory["turn"] + 1}


def value(books: Metrics, name: str, **labels: str) -> float:
    """Return the sum of the samples of a series that carry these labels."""
    families = text_string_to_metric_families(render([books]).decode())
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in found if labels.items() <= sample.labels.items())


def metrics() -> Metrics:
    """Return metrics that nobody reads."""
    return Metrics("tiny", "tent")


class Wired(NamedTuple):
    """A worker and what operators may do to its streams."""

    worker: Worker
    commands: Commands
    kept: Storage
    metrics: Metrics

    def stream(self, name: str) -> Stream:
        """Return a stream, from disk if need be."""
        self.commands.read(name)
        return self.worker.parts.registry.existing(name)

    def method(self, name: str, **settings: object) -> Method:
        """Return how a stream with an adapter of its own learns."""
        return self.worker.parts.methods.prepare(AdapterSettings(name=name, settings=settings))

    def steps(self) -> dict[str, int]:
        """Return how many steps made each stream's state."""
        return {stream["name"]: stream["steps"] for stream in self.commands.list().streams}

    def audited(self) -> list[Entry]:
        """Return the audit log, oldest first."""
        assert self.kept.keeper.flush(30)
        return list(self.kept.keeper._audit.entries())


WHO = Who("tester", "a test")

opened: list[Storage] = []
"""What `wired` opened and nobody closed yet; a fixture closes it after each test."""


_STORAGE = ("save_every_s", "keep_inputs")


def wired(
    adapter: Adapter | None = None,
    window: int = 4,
    backbone: Backbone | None = None,
    storage: str = "",
    judge: Judge | None = None,
    engine: dict | None = None,
    domains: int = 1,
    **more: object,
) -> Wired:
    """Return a worker over a tiny network, and operators' commands for it.

    Args:
        adapter: How streams learn.
        window: Images of a full window.
        backbone: The network.
        storage: Folder of states; empty keeps nothing.
        judge: The guard of every stream; nobody judges without one.
        engine: More of that section.
        domains: Most domains of a stream; 1 tells none apart.
        more: Of the section `streams`, or of `storage`. Equal images are all learnt from unless `duplicate_memory` is
            given; `max_bytes` may be below what an operator may set. With `styleless` the network has no bundle,
            whatever `domains` says. `answers` is the network as it answers.
    """
    answers = more.pop("answers", None)
    styleless = more.pop("styleless", False)
    stored = {"save_every_s": 0.0} | {name: more.pop(name) for name in _STORAGE if name in more}
    small = {"max_bytes": more.pop("max_bytes")} if "max_bytes" in more else {}
    settings = load_settings(
        None,
        {
            "engine": {"window_rows": window, **(engine or {})},
            "streams": {"duplicate_memory": 0, **more},
            "storage": {"url": storage, **stored},
            "guard": {"enabled": False},
            "domains": {"max": domains},
        },
    )
    settings = settings.model_copy(update={"streams": settings.streams.model_copy(update=small)})
    kept, books = open_storage(settings.storage), Metrics("tiny", "tent", settings.streams.max_labelled)
    opened.append(kept)
    with pytest.MonkeyPatch.context() as patch:
        if judge:
            patch.setattr(assembly, "Unguarded", lambda: judge)
        network = backbone or tiny()
        reference = styled(network) if domains > 1 and not styleless else None
        runs = Runs(answers, network, answers) if answers else None
        parts = assemble(network, reference, adapter or hard_tent(), settings, books, kept, runs)
    return Wired(*parts, kept, books)


def close() -> None:
    """Close everything that `wired` opened."""
    while opened:
        opened.pop().keeper.close()


def worker(
    adapter: Adapter | None = None, window: int = 4, backbone: Backbone | None = None, **streams: object
) -> Worker:
    """Return a worker over a tiny network; streams are not guarded."""
    return wired(adapter, window, backbone, **streams).worker


def queued(stream: str, images: np.ndarray, arrived_s: float, client: str = "") -> Job:
    """Return a request on its way through the engine."""
    return Job(stream, prepared(images), arrived_s, client)


def submit(engine: Engine, stream: str, images: np.ndarray, client: str = "", request_id: str = "") -> "Future[Answer]":
    """Queue a request; its room is given back when it is done."""
    room = engine.reserve(len(images), images.nbytes)
    asked = Job(stream, prepared(images), time.monotonic(), client, request_id)
    asked.future.add_done_callback(lambda _: room.release())
    return engine.submit(asked, room)


def ask(subject: Worker | Wired, stream: str, images: np.ndarray, client: str = "", request_id: str = "") -> Answer:
    """Answer one request alone."""
    _worker(subject).answer([asked := Job(stream, prepared(images), time.monotonic(), client, request_id)])
    return asked.future.result(0)


def is_due(subject: Worker | Wired) -> bool:
    """Tell whether a window is due."""
    due_s = _worker(subject).due_s()
    return due_s is not None and due_s <= time.monotonic()


def learn_all(subject: Worker | Wired) -> None:
    """Learn until no window is due."""
    while is_due(subject):
        _worker(subject).learn(time.monotonic())


def shed_all(subject: Worker | Wired) -> None:
    """Drop windows until none is due."""
    while is_due(subject):
        _worker(subject).shed(time.monotonic())


def _worker(subject: Worker | Wired) -> Worker:
    return subject if isinstance(subject, Worker) else subject.worker
