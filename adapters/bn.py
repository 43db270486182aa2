"""BN: replace the source's normalisation statistics by those of the input.

Source: Schneider et al., NeurIPS 2020, arXiv:2006.16971; Nado et al. 2020, arXiv:2006.10963. Reference: tent/norm.py.
Differs: `stats="ema"` answers from the moving statistics, which follow the input as `adapters.moments` says.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tta_server.adapters.base import Adapter, State, Step, accept, group, register, ungroup
from tta_server.adapters.moments import Normalised, init_stats, source_stats, track, track_stats
from tta_server.models import Backbone, Reference

_REFERENCE_MOMENTUM = 0.1


@register
@dataclass(frozen=True)
class BN(Normalised):
    """Normalise by the input's statistics; learn no parameter.

    With `stats="batch"` a `stats_momentum` of None is the reference's 0.1; nothing reads those statistics.
    """

    name: ClassVar[str] = "bn"
    requires: ClassVar[frozenset[str]] = frozenset({"batchnorm"})
    stackable: ClassVar[bool] = True

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the source statistics."""
        return source_stats(backbone) if self.stats == "batch" else init_stats(backbone)

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Move the statistics towards those of `x` (N, C, H, W); `output` is normalised by the latter."""
        self._check_rows(backbone, x)
        output = backbone.forward(x, statistics="batch")
        if self.stats == "batch":
            momentum = self.stats_momentum or _REFERENCE_MOMENTUM
            moved = ungroup("stats", track(group(state, "stats"), output.moments, momentum))
        else:
            moved = track_stats(state, output, self.stats_momentum)
        kept, accepted = accept(state, moved, torch.ones((), dtype=torch.bool, device=x.device), output.logits)
        return Step(kept, output, {"accepted": accepted})

    def alone(self) -> Adapter:
        """Refuse: all that a state holds are statistics.

        Raises:
            ValueError: Always.
        """
        raise ValueError("adapter 'bn' learns no parameters")
