"""BN: replace the source's normalisation statistics by those of the input.

Source: Schneider et al., NeurIPS 2020, arXiv:2006.16971; Nado et al. 2020, arXiv:2006.10963. Reference: tent/norm.py.
Differs: `stats="ema"` answers from the moving statistics, which follow the input as `adapters.moments` says.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tta_server.adapters.base import State, Step, accept, register
from tta_server.adapters.moments import Stats, check_rows, check_stats, init_stats, predict, track_stats
from tta_server.models import Backbone, Output, Reference

_REFERENCE_MOMENTUM = 0.1


@register
@dataclass(frozen=True)
class BN:
    """Normalise by the input's statistics; learn no parameter.

    Attributes:
        stats: "batch" answers each batch from its own statistics, "ema" from the stream's moving ones.
        stats_momentum: Share of a new batch in the moving statistics, in (0, 1]. None is the reference's 0.1 for
            "batch", where nothing reads them, and a gain chosen per layer for "ema".
    """

    stats: Stats = "ema"
    stats_momentum: float | None = None

    name: ClassVar[str] = "bn"
    requires: ClassVar[frozenset[str]] = frozenset({"batchnorm"})
    output_kind: ClassVar[str] = "logits"
    stackable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_stats(self.stats, self.stats_momentum)

    @property
    def batch_coupled(self) -> bool:
        """Whether rows of one forward share their statistics."""
        return self.stats == "batch"

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the source statistics."""
        return init_stats(backbone)

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W)."""
        return predict(backbone, state, x, self.stats)

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Move the statistics towards those of `x` (N, C, H, W); `output` is normalised by the latter."""
        if self.stats == "batch":
            check_rows(backbone, x)
        output = backbone.forward(x, statistics="batch")
        fixed = _REFERENCE_MOMENTUM if self.stats == "batch" else None
        moved = track_stats(state, output.moments, self.stats_momentum or fixed)
        kept, accepted = accept(state, moved, torch.ones((), dtype=torch.bool, device=x.device), output.logits)
        return Step(kept, output, {"accepted": accepted})
