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

from tta_server.adapters.affine import descend, init_affine
from tta_server.adapters.base import State, Step, accept, register
from tta_server.adapters.losses import entropy
from tta_server.adapters.moments import Stats, check_rows, check_stats, predict, track_stats
from tta_server.adapters.optim import Name, Optimizer
from tta_server.models import Backbone, Output, Reference, Tensors


@register
@dataclass(frozen=True)
class Tent:
    """Minimise the mean entropy of each batch, one gradient step a batch.

    Attributes:
        lr: Learning rate, > 0. The papers: 2.5e-4 (SGD, ImageNet), 1e-3 (Adam, CIFAR).
        optimizer: "sgd" or "adam".
        momentum: SGD's momentum, in [0, 1).
        betas: Adam's decay rates.
        stats: "batch" answers each batch from its own statistics (the paper), "ema" from the stream's moving ones.
        stats_momentum: Share of a new batch in the moving statistics, in (0, 1]; None chooses it per layer.
    """

    lr: float = 2.5e-4
    optimizer: Name = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    stats: Stats = "ema"
    stats_momentum: float | None = None

    name: ClassVar[str] = "tent"
    requires: ClassVar[frozenset[str]] = frozenset({"grad", "norm_affine"})
    output_kind: ClassVar[str] = "logits"
    stackable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_stats(self.stats, self.stats_momentum)
        self._optimizer()

    @property
    def batch_coupled(self) -> bool:
        """Whether rows of one forward share their statistics."""
        return self.stats == "batch"

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the source's scales and shifts, empty optimiser slots and, for "ema", the source statistics."""
        return init_affine(backbone, self._optimizer(), self.stats)

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W)."""
        return predict(backbone, state, x, self.stats)

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Take one gradient step on `x` (N, C, H, W), normalised by its own statistics."""
        if self.stats == "batch":
            check_rows(backbone, x)

        def loss(theta: Tensors) -> tuple[Tensor, Output]:
            output = backbone.forward(x, theta, "batch")
            return entropy(output.logits).mean(), output

        new, value, output = descend(state, loss, self._optimizer())
        new |= track_stats(state, output.moments, self.stats_momentum)
        kept, accepted = accept(state, new, torch.ones((), dtype=torch.bool, device=x.device), value, output.logits)
        return Step(kept, output, {"accepted": accepted, "loss": value})

    def _optimizer(self) -> Optimizer:
        return Optimizer(self.optimizer, self.lr, self.momentum, self.betas)
