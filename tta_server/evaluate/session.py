"""One stream that is answered and learns as the server would do it, without the server."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from adapters import Adapter, Step
from adapters.base import check
from models import Backbone, Output, Reference
from tta_server.evaluate.datasets import Indices, Pixels
from tta_server.runtime.stream import Rows, Stream

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

    Adapters whose rows are independent answer from the stored state and learn from windows, as `Worker` does in mode
    `after`. Batch-coupled ones, if `inline`, answer with the forward that they learn from, as in mode `inline`.

    Attributes:
        answer_s: Seconds of each request.
        learn_s: Seconds of each step that was not itself an answer.
        accepted: For each step, whether it changed the state.
        selected: Images that the adapter says it learnt from; None if it does not say.
        offered: Images that it could have learnt from.
    """

    def __init__(
        self, adapter: Adapter, backbone: Backbone, reference: Reference | None, window_rows: int, inline: bool
    ) -> None:
        """Start a stream.

        Raises:
            StoppedError: If the adapter does not fit.
        """
        self._adapter = adapter
        self._backbone = backbone
        self._window_rows = window_rows
        self._ask(check, adapter, backbone, reference)
        self._initial = self._ask(adapter.init, backbone, reference)
        mode = "inline" if inline and adapter.batch_coupled else "after"
        self._stream = Stream("evaluate", "inline" if mode == "inline" else "after", self._initial)
        self.answer_s: list[float] = []
        self.learn_s: list[float] = []
        self.accepted: list[bool] = []
        self.selected: float | None = None
        self.offered = 0

    @property
    def state_bytes(self) -> int:
        """Bytes of the state as it is now."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._stream.state.values())

    def reset(self) -> None:
        """Put the stream back to the source; images that wait to be learnt from are dropped."""
        self._stream.reset(self._initial)

    def answer(self, images: Pixels) -> Indices:
        """Answer a request and learn if there is enough to learn from.

        Args:
            images: uint8 (n, C, H, W).

        Returns:
            The predicted class of each (n,); -1 where the scores are not finite.

        Raises:
            StoppedError: If the adapter refuses or breaks.
        """
        x = self._tensor(images)
        begun_s = self._now()
        if self._stream.mode == "inline":
            output = self._learn(x)
        else:
            output = self._ask(self._adapter.predict, self._backbone, self._stream.state, x)
        predicted = _classes(output.logits)
        self.answer_s.append(self._now() - begun_s)
        if self._stream.mode == "after":
            self._stream.offer(images)
            if self._stream.window_rows >= self._window_rows:
                x = torch.cat([self._tensor(rows) for rows in self._stream.take_window(self._window_rows)])
                begun_s = self._now()
                self._learn(x)
                self.learn_s.append(self._now() - begun_s)
        return predicted

    def _learn(self, x: Tensor) -> Output:
        step: Step = self._ask(self._adapter.adapt, self._backbone, self._stream.state, x)
        accepted = bool(step.scalars["accepted"])
        if accepted:
            self._stream.commit(step.state, len(x))
        self.accepted.append(accepted)
        self.offered += len(x)
        if "selected" in step.scalars:
            self.selected = (self.selected or 0.0) + float(step.scalars["selected"])
        return step.output

    def _tensor(self, images: Rows) -> Tensor:
        return torch.from_numpy(images).to(self._backbone.device).float() / 255

    def _now(self) -> float:
        if self._backbone.device.type == "cuda":
            torch.cuda.synchronize(self._backbone.device)
        return time.perf_counter()

    def _ask(self, verb: Callable[..., T], *arguments: object) -> T:
        try:
            return verb(*arguments)
        except ValueError as error:
            raise StoppedError("refused", str(error)) from error
        except Exception as error:
            log.exception("adapter '%s' failed", self._adapter.name)
            raise StoppedError("failed", f"{type(error).__name__}: {error}") from error


def _classes(scores: Tensor) -> Indices:
    # Probabilities or logits: the largest wins either way.
    predicted = torch.where(scores.isfinite().all(1), scores.argmax(1), -1)
    return predicted.cpu().numpy()
