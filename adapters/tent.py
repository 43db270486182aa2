"""TENT: lower the entropy of the predictions by the normalisation layers' scales and shifts.

Source: Wang et al., ICLR 2021, arXiv:2006.10726, section 3. Reference: tent/tent.py.
Differs: the network stays in evaluation mode, so dropout and stochastic depth are off; LayerNorm, GroupNorm and
RMSNorm layers adapt too; `stats="ema"` answers from moving statistics (see `adapters.moments`); a step with a
non-finite result is dropped whole.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tta_server.adapters.affine import Descent, descend
from tta_server.adapters.base import State, Step, accept, register
from tta_server.adapters.losses import entropy
from tta_server.adapters.moments import track_stats
from tta_server.models import Backbone, Output, Tensors


@register
@dataclass(frozen=True)
class Tent(Descent):
    """Minimise the mean entropy of each batch, one gradient step a batch; the settings are those of every descent."""

    name: ClassVar[str] = "tent"
    stackable: ClassVar[bool] = True

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Take one gradient step on `x` (N, C, H, W), normalised by its own statistics."""
        self._check_rows(backbone, x)

        def loss(theta: Tensors) -> tuple[Tensor, Output]:
            output = backbone.forward(x, theta, "batch")
            return entropy(output.logits).mean(), output

        new, value, output = descend(state, loss, self._optimizer())
        new |= track_stats(state, output, self.stats_momentum)
        kept, accepted = accept(state, new, torch.ones((), dtype=torch.bool, device=x.device), value, output.logits)
        return Step(kept, output, {"accepted": accepted, "loss": value})
