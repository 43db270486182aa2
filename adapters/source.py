"""Source: the frozen model itself, the yardstick of every other adapter."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tta_server.adapters.base import State, Step, register
from tta_server.models import Backbone, Output, Reference


@register
@dataclass(frozen=True)
class Source:
    """Answer with the frozen model; learn nothing."""

    name: ClassVar[str] = "source"
    requires: ClassVar[frozenset[str]] = frozenset()
    output_kind: ClassVar[str] = "logits"
    stackable: ClassVar[bool] = True
    batch_coupled: ClassVar[bool] = False

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the empty state."""
        return {}

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W) with the source model."""
        return backbone.forward(x)

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Return the answer and the state as it was."""
        output = self.predict(backbone, state, x)
        return Step(state, output, {"accepted": torch.zeros((), dtype=torch.bool, device=x.device)})
