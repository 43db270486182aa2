"""Source: the frozen model itself, the yardstick of every other adapter."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tta_server.adapters.base import Adapter, State, Step, register
from tta_server.models import Backbone, Output, Reference


@register
@dataclass(frozen=True)
class Source(Adapter):
    """Answer with the frozen model; learn nothing."""

    name: ClassVar[str] = "source"
    stackable: ClassVar[bool] = True

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
