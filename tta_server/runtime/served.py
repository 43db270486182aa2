"""What is served: a model, and everything that answers for it."""

import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from tta_server.errors import NotFound
from tta_server.models import Model
from tta_server.runtime.commands.stream_commands import Commands
from tta_server.runtime.gathering import Gathering
from tta_server.runtime.images.decoding import Decoding
from tta_server.runtime.queue.engine import Engine
from tta_server.runtime.result import result_of
from tta_server.runtime.tenure import Tenure
from tta_server.settings_door import LimitsSettings
from tta_server.storage.audit import Audit
from tta_server.storage.keeper import Keeper
from tta_server.storage.ring import Ring
from tta_server.storage.store import Store
from tta_server.streams.ledger import Ledger
from tta_server.streams.methods import Methods
from tta_server.streams.registry import Registry
from tta_server.telemetry.metrics import Metrics
from tta_server.telemetry.webhook import Webhook

FINISH_S: Final = 25.0
"""How long it takes at most until everything is answered and written, or given up."""

T = TypeVar("T")


class Storage(NamedTuple):
    """Where things are kept.

    Attributes:
        store: Files.
        audit: The log of what happened to streams.
        keeper: The thread that writes both.
        durable: Whether they outlive the process.
        ring: The log's last lines, if they do not.
        streams: Those that were kept when it was taken.
    """

    store: Store
    audit: Audit
    keeper: Keeper
    durable: bool
    ring: Ring
    streams: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Served:
    """One model that is served; several differ in nothing else.

    Attributes:
        name: Its name in URLs, answers and metrics.
        model: Network, labels, preprocessing and reference bundle.
        engine: Answers requests and runs operators' commands.
        commands: What operators may do; the engine's thread runs them.
        methods: How streams learn.
        registry: The streams; the engine's thread alone may touch it.
        ledger: Which requests were answered how; the engine's thread alone may touch it.
        storage: Where streams are kept.
        limits: What a request may be.
        metrics: Where to report.
        decoding: Decodes images.
        gathering: Takes images as home when somebody asks.
        webhook: Tells somebody what happens to streams; None if nobody is to be told.
        tenure: Which streams this server has; None if no other could have them.
        leaving: Set once the server was told to stop.
        finished: Set once everything was written for the last time.
    """

    name: str
    model: Model
    engine: Engine
    commands: Commands
    methods: Methods
    registry: Registry
    ledger: Ledger
    storage: Storage
    limits: LimitsSettings
    metrics: Metrics
    decoding: Decoding
    gathering: Gathering
    webhook: Webhook | None = None
    tenure: Tenure | None = None
    leaving: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)

    async def answer(self, stream: str, ask: Callable[[], Awaitable[T]], opening: bool = True) -> T:
        """Return what `ask` gives while this server has a stream, see `Tenure.answer`."""
        return await (self.tenure.answer(stream, ask, opening, changing=False) if self.tenure else ask())

    async def command(self, stream: str, run: Callable[[Commands], T], opening: bool = False) -> T:
        """Return what an operator's command about a stream, or a domain of it, gives.

        Args:
            stream: Its name.
            run: The command.
            opening: Whether the stream may be new.
        """

        async def ask() -> T:
            return await result_of(self.engine.command(run))

        return await (self.tenure.answer(stream, ask, opening, changing=True) if self.tenure else ask())

    def trouble(self) -> str:
        """Return why nobody should ask this server, though it may answer; or an empty string."""
        storage = self.tenure.trouble() if self.tenure else ""
        return self.engine.trouble() or storage or ("the server is stopping" if self.leaving.is_set() else "")

    def start(self) -> None:
        """Begin to answer; returns when the device is warm. A second time changes nothing.

        Raises:
            ValueError: If the network or how streams learn fails on as many images as the settings allow.
        """
        if self.engine.started:
            return
        if self.webhook:
            self.webhook.start()
        self.engine.start()
        if self.tenure:
            self.tenure.watch()

    def finish(self, why: str = "the server is stopping") -> None:
        """Answer what waits, refuse what comes, and write what is not written; a second time changes nothing.

        All of it within `FINISH_S`, whatever hangs.

        Args:
            why: What new requests hear.
        """
        if self.finished.is_set():
            return
        end_s = time.monotonic() + FINISH_S
        if self.engine.stop(why=why) and self.storage.durable:
            self.commands.save()  # also what no step has written: the guard's memory, images that wait
        self.storage.keeper.close(end_s - time.monotonic())
        self.finished.set()

    def stop(self, why: str = "the server is stopping") -> None:
        """Finish, and give everything back; `why` is what new requests hear."""
        self.finish(why)
        self.decoding.close()
        if self.webhook:
            self.webhook.close()


def find(models: Mapping[str, Served], name: str | None = None) -> Served:
    """Return what is served under a name; without one, the first.

    Raises:
        NotFound: If there is no such model.
    """
    if name is None:
        return next(iter(models.values()))
    if (found := models.get(name)) is None:
        raise NotFound(f"unknown model '{name}'; GET /v2/models lists those that you may ask")
    return found
