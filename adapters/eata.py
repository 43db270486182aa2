"""EATA: lower the entropy of reliable, non-redundant samples, held near the source by a Fisher penalty.

Source: Niu et al., ICML 2022, arXiv:2204.02610, equations 2 to 9. Reference: EATA/eata.py. ETA is `fisher_alpha=0`.
Differs: margins scale with the number of classes K, so that K = 10 does not silently select nothing; a reset clears the
moving probability too; `stats="ema"` answers from moving statistics (see `adapters.moments`); a step with a non-finite
result is dropped whole.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tta_server.adapters.affine import Descent, descend
from tta_server.adapters.base import State, Step, accept, group, register, ungroup
from tta_server.adapters.bounds import OptionalShare, PositiveShare, Weight
from tta_server.adapters.declared import Part, SourceImages
from tta_server.adapters.eata_fisher import BATCH, IMAGES, fisher
from tta_server.adapters.losses import entropy
from tta_server.adapters.moments import track_stats
from tta_server.models import Backbone, Output, Reference, Tensors

_PAPER_CLASSES, _PAPER_D_MARGIN = 1000, 0.05
_MOVING_SHARE = 0.1


@register
@dataclass(frozen=True)
class Eata(Descent):
    """Learn from samples that the model is sure of and has not seen the like of lately.

    Attributes:
        e_margin: Entropy below which a sample is reliable, as a fraction of ln K, in (0, 1]; the paper: 0.4.
        d_margin: Cosine to the moving prediction below which a sample is not redundant, in (0, 1]. None is the paper's
            0.05 at K = 1000, scaled by 1/sqrt(K) as the cosine of a sure prediction to a uniform one is.
        fisher_alpha: Weight of the Fisher penalty, in [0, 1e6]; the paper: 2000. 0 needs no reference bundle.
    """

    e_margin: PositiveShare = 0.4
    d_margin: OptionalShare = None
    fisher_alpha: Weight = 2000.0

    name: ClassVar[str] = "eata"
    stackable: ClassVar[bool] = True
    part: ClassVar[Part] = Part("fisher", "Fisher weights", BATCH, frozenset({"norm_affine"}), labels=False)

    @property
    def requires(self) -> frozenset[str]:
        """What the backbone and its reference bundle must have."""
        return super().requires | ({"reference.fisher"} if self.fisher_alpha else set())

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the source's scales and shifts, empty slots, no moving prediction, and the Fisher weights."""
        weights = reference.part("fisher") if reference and self.fisher_alpha else {}
        classes = torch.zeros(backbone.spec.classes, device=backbone.device)
        seen = torch.zeros((), dtype=torch.bool, device=backbone.device)
        state = {**super().init(backbone), **ungroup("fisher", weights)}
        return state | {"moving/prediction": classes, "moving/seen": seen}

    def prepare(self, backbone: Backbone, images: SourceImages) -> Tensors:
        """Return the Fisher weights of the source images."""
        return fisher(backbone, (x for x, _ in images.in_order(BATCH, IMAGES)))

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Take one gradient step on the selected images of `x` (N, C, H, W)."""
        self._check_rows(backbone, x)
        bound = self.e_margin * math.log(backbone.spec.classes)

        def loss(theta: Tensors) -> tuple[Tensor, tuple[Output, Tensor, Tensor]]:
            output = backbone.forward(x, theta, "batch")
            entropies = entropy(output.logits)
            reliable = entropies.detach() < bound
            selected = reliable & self._fresh(state, output.logits.detach().softmax(1))
            weights = torch.where(selected, torch.exp(bound - entropies.detach()), 0.0)
            mean = (weights * entropies).sum() / selected.sum().clamp(min=1)
            return mean + self._penalty(backbone, state, theta), (output, reliable, selected)

        new, value, (output, reliable, selected) = descend(state, loss, self._optimizer())
        new |= self._remember(state, output.logits.softmax(1), selected)
        new |= track_stats(state, output, self.stats_momentum)
        kept, accepted = accept(state, new, selected.any(), value, output.logits)
        counts = {"reliable": reliable.sum(), "selected": selected.sum()}
        return Step(kept, output, {"accepted": accepted, "loss": value, **counts})

    def _fresh(self, state: State, probabilities: Tensor) -> Tensor:
        classes = probabilities.shape[1]
        d_margin = self.d_margin or min(1.0, _PAPER_D_MARGIN * math.sqrt(_PAPER_CLASSES / classes))
        cosine = cosine_similarity(state["moving/prediction"][None].to(probabilities), probabilities, dim=1)
        return (cosine.abs() < d_margin) | ~state["moving/seen"]

    def _remember(self, state: State, probabilities: Tensor, selected: Tensor) -> dict[str, Tensor]:
        mean = ((probabilities * selected[:, None]).sum(0) / selected.sum().clamp(min=1)).to(state["moving/prediction"])
        moved = torch.lerp(state["moving/prediction"], mean, _MOVING_SHARE)
        moved = torch.where(state["moving/seen"], moved, mean)
        return {"moving/prediction": moved, "moving/seen": torch.ones_like(state["moving/seen"])}

    def _penalty(self, backbone: Backbone, state: State, theta: Tensors) -> Tensor | float:
        source, fisher = backbone.norm_affine(), group(state, "fisher")
        terms = [(fisher[name] * (theta[name] - source[name]).square()).sum() for name in fisher]
        return self.fisher_alpha * torch.stack(terms).sum() if terms else 0.0
