"""One stream that is answered and learns as the server would do it, without the server."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from tta_server import adapters
from tta_server.adapters import Adapter
from tta_server.adapters.base import check
from tta_server.evaluate.datasets import Indices
from tta_server.guard.judge import Judge, Unguarded
from tta_server.models import EMPTY, Backbone, Output, Reference
from tta_server.models.backbone import size_bytes
from tta_server.models.preprocess import Pixels
from tta_server.runtime.device import on_device
from tta_server.runtime.learner import Learner, Policy
from tta_server.streams.event import StreamEvent
from tta_server.streams.history import History
from tta_server.streams.stream import Method, Stream
from tta_server.streams.window import Window, as_samples, prepared
from tta_server.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")


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
        restores: Times that the guard took the stream back.
    """

    def __init__(
        self,
        adapter: Adapter,
        backbone: Backbone,
        reference: Reference | None,
        window_rows: int,
        inline: bool,
        guard: Judge | None = None,
        freeze_after: int = 3,
    ) -> None:
        """Start a stream.

        Args:
            adapter: The method.
            backbone: The network.
            reference: Its bundle, if there is one.
            window_rows: Images of a window.
            inline: Whether a request may be what is learnt from.
            guard: Who judges the steps; nobody if None.
            freeze_after: Restores in a row after which the stream is switched off.

        Raises:
            StoppedError: If the adapter does not fit.
        """
        self._backbone = backbone
        self._window_rows = window_rows
        self._source = adapters.create("source")
        ask(check, adapter, backbone, reference)
        method = Method(adapter, ask(adapter.init, backbone, reference), guard or Unguarded())
        self.stream = Stream(
            "evaluate",
            "inline" if inline and adapter.batch_coupled else "after",
            method,
            method.initial,
            method.guard.start(),
            Window(window_rows, recent=256 if guard else 0),
            History(2**23 if guard else 0),
        )
        metrics = Metrics("evaluate", adapter.name)
        self._learner = Learner(backbone, self._source, metrics, self._hear, Policy(0, freeze_after))
        self.answer_s: list[float] = []
        self.learn_s: list[float] = []
        self.accepted: list[bool] = []
        self.selected: float | None = None
        self.offered = 0
        self.restores = 0

    @property
    def state_bytes(self) -> int:
        """Bytes of the state as it is now."""
        return size_bytes(self.stream.state)

    def reset(self) -> None:
        """Put the stream back to the source; images that wait to be learnt from are dropped."""
        self.stream.reset()

    def answer(self, images: Pixels) -> Indices:
        """Answer a request and learn if there is enough to learn from.

        Args:
            images: uint8 (n, C, H, W).

        Returns:
            The predicted class of each (n,); -1 where the scores are not finite.

        Raises:
            StoppedError: If the adapter refuses or breaks.
        """
        begun_s = self._now()
        if self.stream.mode == "inline" and len(images) > 1:
            output, _ = ask(self._learner.inline, self.stream, as_samples(prepared(images), "", 0.0))
        else:
            output = self._predict(on_device([images], self._backbone.device))
        predicted = _classes(output)
        self.answer_s.append(self._now() - begun_s)
        if self.stream.learns_later:
            self.stream.window.offer(prepared(images), "", 0.0)
            if len(self.stream.window) >= self._window_rows:
                begun_s = self._now()
                self._learner.learn([(self.stream, self.stream.window.take(self._window_rows))])
                self.learn_s.append(self._now() - begun_s)
        return predicted

    def _hear(self, event: StreamEvent) -> None:
        """Count windows and restores; stop if the adapter broke."""
        if event.error:
            raise _stopped(event.error)
        if event.kind == "freeze":
            log.warning("%s: %s", event.kind, event.reason)
        if event.lesson:
            self.accepted.append(event.kind == "commit")
            self.offered += event.rows
            self.restores += event.words.restored
        if event.step and "selected" in event.step.scalars:
            self.selected = (self.selected or 0.0) + float(event.step.scalars["selected"])

    def _predict(self, x: torch.Tensor) -> Output:
        if self.stream.answers_as_source:
            return ask(self._source.predict, self._backbone, EMPTY, x)
        return ask(self.stream.method.adapter.predict, self._backbone, self.stream.state, x)

    def _now(self) -> float:
        if self._backbone.device.type == "cuda":
            torch.cuda.synchronize(self._backbone.device)
        return time.perf_counter()


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


def _classes(output: Output) -> Indices:
    scores = output.logits
    predicted = torch.where(scores.isfinite().all(1), scores.argmax(1), -1)
    return predicted.cpu().numpy()
