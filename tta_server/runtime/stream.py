"""A stream of input: the only mutable object, touched by the device thread alone."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters import State
from tta_server.settings import Mode

Rows = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
"""Images (n, C, H, W): uint8 in [0, 255] or float32 in [0, 1]."""

_RECENT_IMAGES = 256


@dataclass(eq=False)
class Stream:
    """What the server knows of one stream.

    Attributes:
        name: Its name.
        mode: Whether and when it learns.
        state: What it has learnt; replaced, never written to.
        version: Grows by one whenever `state` is replaced, by a step or a reset; no two states share one.
        steps: Steps committed since the start or the last reset; 0 is the source model.
        images: Images answered.
        learnt: Images that committed steps learnt from.
        dropped: Images that were offered for learning, but not learnt from.
        entropy_ratio: Recent mean entropy of the answers over ln K; None before the first.
        confidence: Recent mean probability of the predicted class; None before the first.
        window: Answered images that wait to be learnt from.
        window_rows: How many these are.
    """

    name: str
    mode: Mode
    state: State
    version: int = 0
    steps: int = 0
    images: int = 0
    learnt: int = 0
    dropped: int = 0
    entropy_ratio: float | None = None
    confidence: float | None = None
    window: deque[Rows] = field(default_factory=deque)
    window_rows: int = 0

    def observe(self, entropy_ratio: float, confidence: float, rows: int) -> None:
        """Fold the mean entropy and confidence of `rows` new answers into the recent ones."""
        self.images += rows
        share = 1.0 if self.entropy_ratio is None else 1 - np.exp(-rows / _RECENT_IMAGES)
        self.entropy_ratio = (self.entropy_ratio or 0.0) * (1 - share) + entropy_ratio * share
        self.confidence = (self.confidence or 0.0) * (1 - share) + confidence * share

    def offer(self, rows: Rows) -> None:
        """Put answered images into the window."""
        self.window.append(rows)
        self.window_rows += len(rows)

    def take_window(self, rows: int) -> list[Rows]:
        """Remove the `rows` oldest images of the window and return them in order of arrival."""
        taken: list[Rows] = []
        missing = min(rows, self.window_rows)
        self.window_rows -= missing
        while missing:
            first = self.window.popleft()
            if len(first) > missing:
                self.window.appendleft(first[missing:])
                first = first[:missing]
            taken.append(first)
            missing -= len(first)
        return taken

    def commit(self, state: State, rows: int) -> None:
        """Take over the state that a step on `rows` images made."""
        self.state = state
        self.version += 1
        self.steps += 1
        self.learnt += rows

    def restart(self, state: State) -> None:
        """Go back to the source's `state`: nothing learnt survives, what waits to be learnt from does."""
        self.state = state
        self.version += 1
        self.steps = 0

    def reset(self, state: State) -> None:
        """Start again from the source's `state`: nothing learnt and nothing waiting survives."""
        self.restart(state)
        self.dropped += self.window_rows
        self.window.clear()
        self.window_rows = 0
        self.entropy_ratio = self.confidence = None

    def summary(self) -> dict[str, Any]:
        """Return what `GET /v1/streams` says of the stream."""
        return {
            "name": self.name,
            "mode": self.mode,
            "state_version": self.version,
            "steps": self.steps,
            "images": self.images,
            "images_learnt": self.learnt,
            "images_dropped": self.dropped,
            "images_in_window": self.window_rows,
            "entropy_ratio": self.entropy_ratio,
            "confidence_ratio": self.confidence,
            "state_bytes": sum(tensor.numel() * tensor.element_size() for tensor in self.state.values()),
        }
