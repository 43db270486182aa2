"""One stream that is answered and learns as the server does it: by the server's own worker, in this thread."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from tta_server.adapters import Adapter
from tta_server.errors import BadRequest, NotFinite
from tta_server.evaluate.datasets import Indices
from tta_server.models import Backbone, Reference
from tta_server.models.backbone import size_bytes
from tta_server.models.preprocess import Pixels
from tta_server.models.robust import measured_share, robust
from tta_server.runtime.assemble import assemble
from tta_server.runtime.job import Job
from tta_server.runtime.served import Storage
from tta_server.settings import DomainsSettings, DriftSettings, EngineSettings, GuardSettings, Settings, StreamsSettings
from tta_server.storage.audit import Audit
from tta_server.storage.keeper import Keeper
from tta_server.storage.ring import Ring
from tta_server.storage.store import Store
from tta_server.streams.event import StreamEvent
from tta_server.streams.stream import Stream
from tta_server.streams.window import prepared
from tta_server.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")

_NAME = "evaluate"
_ALL_IN_MEMORY_BYTES = 2**62


class StoppedError(Exception):
    """The adapter cannot go on; the evaluation can.

    Attributes:
        status: "refused" if the adapter said why it cannot work like this, "failed" if it broke.
    """

    def __init__(self, status: str, reason: str) -> None:
        """Keep the reason, in one line."""
        super().__init__(" ".join(reason.split()))
        self.status = status


class Session:
    """Answer requests and learn; keep the times.

    Adapters whose rows are independent answer from the stored state and learn from windows, as the server does in mode
    `after`. Batch-coupled ones, if `inline`, answer with the forward that they learn from, as in mode `inline`.

    Attributes:
        answer_s: Seconds of each request.
        learn_s: Seconds of each step that was not itself an answer.
        accepted: For each window, whether it changed the state.
        selected: Images that the adapter says it learnt from; None if it does not say.
        offered: Images that it could have learnt from.
        restores: Times that the guard took the stream, or a domain of it, back.
        places: Domain of each image of the last answer, or "source"; empty if none are told apart.
    """

    def __init__(
        self,
        adapter: Adapter,
        backbone: Backbone,
        reference: Reference | None,
        window_rows: int,
        inline: bool,
        guard: GuardSettings | None = None,
        domains: int = 1,
    ) -> None:
        """Start a stream.

        Args:
            adapter: The method.
            backbone: The network.
            reference: Its bundle, if there is one.
            window_rows: Images of a window.
            inline: Whether a request may be what is learnt from.
            guard: What the guard lets pass; nobody judges the steps if None.
            domains: Most kinds of input that the stream tells apart; 1 learns from everything in one state.

        Raises:
            StoppedError: If the adapter does not fit.
        """
        mode = "inline" if inline and adapter.batch_coupled else "after"
        streams = StreamsSettings(
            mode=mode,
            max_bytes=_ALL_IN_MEMORY_BYTES,
            history_bytes=2**23 if guard else 0,
            duplicate_memory=256 if guard else 0,
        )
        settings = Settings.model_construct(  # no file and no environment: results depend on what is given here alone
            engine=EngineSettings(window_rows=window_rows),
            streams=streams,
            domains=DomainsSettings(max=domains),
            drift=DriftSettings(enabled=False),  # nobody asks for it here
            guard=guard or GuardSettings(enabled=False),
        )
        metrics = Metrics(_NAME, adapter.name)
        if not adapter.batch_coupled:  # those are measured as their papers have them
            backbone = robust(backbone, 1, source_share=measured_share(reference))
        self._worker, _ = ask(assemble, backbone, reference, adapter, settings, metrics, _nowhere())
        self._registry = self._worker.parts.registry
        self._worker.parts.news.listen(self._hear)
        self._broken: Exception | None = None
        self.answer_s: list[float] = []
        self.learn_s: list[float] = []
        self.accepted: list[bool] = []
        self.selected: float | None = None
        self.offered = 0
        self.restores = 0
        self.places: tuple[str, ...] = ()

    @property
    def stream(self) -> Stream:
        """The stream; if it tells domains apart, it is the source, and `domains` learn."""
        return self._registry.open(_NAME, time.monotonic())

    @property
    def domains(self) -> list[Stream]:
        """The domains of the stream, the oldest first."""
        return [self._registry.existing(name) for name in self._registry.domains(_NAME)]

    @property
    def state_bytes(self) -> int:
        """Bytes of the state, or of the states of all domains, as they are now."""
        return sum(size_bytes(one.state) for one in self.domains or [self.stream])

    def reset(self) -> None:
        """Put the stream back to the source; images that wait to be learnt from are dropped, and so are domains."""
        if _NAME in self._registry:
            self._registry.delete(_NAME)

    def answer(self, images: Pixels) -> Indices:
        """Answer a request and learn if there is enough to learn from.

        Args:
            images: uint8 (n, C, H, W).

        Returns:
            The predicted class of each (n,); -1 if scores are not finite: the server then refuses to answer.

        Raises:
            StoppedError: If the adapter refuses or breaks.
        """
        begun_s = self._now()
        job = Job(_NAME, prepared(images), time.monotonic())
        self._worker.answer([job])
        self.answer_s.append(self._now() - begun_s)
        predicted = self._read(job)
        while (due_s := self._worker.due_s()) is not None and due_s <= time.monotonic():
            begun_s = self._now()
            self._worker.learn(time.monotonic())
            self.learn_s.append(self._now() - begun_s)
            self._stop_if_broken()
        return predicted

    def _read(self, job: Job) -> Indices:
        """Return the classes that a request was answered with."""
        self._stop_if_broken()
        try:
            answer = job.future.result(0)
        except NotFinite:
            return np.full(job.rows, -1)
        except BadRequest as error:
            raise StoppedError("refused", str(error)) from error
        except Exception as error:
            raise _stopped(error) from error
        self.places = answer.domains
        predicted: Indices = answer.probabilities.argmax(1)
        return predicted

    def _hear(self, event: StreamEvent) -> None:
        """Count windows and restores, and remember whether the adapter broke."""
        self._broken = self._broken or event.error
        if event.kind == "freeze":
            log.warning("%s: %s", event.kind, event.reason)
        if event.lesson:
            self.accepted.append(event.kind == "commit")
            self.offered += event.rows
            self.restores += event.words.restored
        if event.step and "selected" in event.step.scalars:
            self.selected = (self.selected or 0.0) + float(event.step.scalars["selected"])

    def _stop_if_broken(self) -> None:
        if self._broken:
            raise _stopped(self._broken) from self._broken

    def _now(self) -> float:
        device = self._worker.parts.learns.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()


def _nowhere() -> Storage:
    """Return a storage that nothing is written to: its writer is never started."""
    store = Store("memory://evaluate")
    audit = Audit(store.files)
    return Storage(store, audit, Keeper(store, audit), durable=False, ring=Ring())


def ask(verb: Callable[..., T], *arguments: object) -> T:
    """Call `verb`; whatever it raises stops the evaluation of this adapter only.

    Raises:
        StoppedError: If it raises anything.
    """
    try:
        return verb(*arguments)
    except StoppedError:
        raise
    except Exception as error:
        raise _stopped(error) from error


def _stopped(error: Exception) -> StoppedError:
    if isinstance(error, ValueError):
        return StoppedError("refused", str(error))
    log.error("the adapter failed", exc_info=error)
    return StoppedError("failed", f"{type(error).__name__}: {error}")
