"""Whether memory was damaged: the shared weights, or the copy of them that another runtime answers from."""

import torch
from torch import Tensor

from tta_server.models import EMPTY, Backbone
from tta_server.models.backbone import random_images, replaceable

_FAR = 0.05
"""Of the largest logit: far beyond rounding, for a false alarm stops the server."""

_ROWS = 2


class Damage:
    """Compare the network with what it was at the start; one thread at a time may call it."""

    def __init__(self, learns: Backbone, answers: Backbone) -> None:
        """Take the network, as steps and as answers run it; they may be one."""
        self._learns = learns
        self._answers = answers
        self._said: list[Tensor] = []

    def remember(self) -> None:
        """Keep what the network says of some images, if it says the same each time and its digest is not all of it."""
        digested = self._answers is self._learns and "grad" in self._learns.spec.capabilities
        self._said = self._say() if self._answers.findings.repeats and not digested else []

    def found(self) -> str:
        """Return what is wrong, or an empty string."""
        if self._learns.digest() != self._learns.spec.digest:
            return "the model's weights were damaged in memory; restart the server"
        if self._said and any(_far(*pair) for pair in zip(self._say(), self._said, strict=True)):
            return "the model answers otherwise than at the start: memory was damaged; restart the server"
        return ""

    def _say(self) -> list[Tensor]:
        """Return logits of the source, and of a stream that has learnt: a runtime may hold weights for each."""
        x = random_images(self._answers, _ROWS)
        with torch.no_grad():
            states = EMPTY, {name: 1.01 * tensor for name, tensor in replaceable(self._answers).items()}
            return [self._answers.forward(x, state).logits for state in states]


def _far(now: Tensor, then: Tensor) -> bool:
    now, then = (logits.float().nan_to_num() for logits in (now, then))  # some answer no numbers to noise
    return bool((now - then).abs().max() > _FAR * then.abs().max())
