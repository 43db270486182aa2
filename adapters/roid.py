"""ROID: certain and diverse samples, a soft likelihood ratio, consistency under augmentation, and a pull to the source.

Source: Marsden et al., WACV 2024, arXiv:2306.00650. Reference: test-time-adaptation, classification/methods/roid.py.
Differs: the batch's actual size divides the loss; weights are finite for a batch of one; the augmented forward sees all
rows, with weight 0 where the reference leaves them out; the prior multiplies probabilities, as the paper says, where
the reference multiplies raw logits; `stats="ema"` answers from moving statistics and corrects by the stream's moving
prediction, so that rows stay independent.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tta_server.adapters.affine import Descent, descend
from tta_server.adapters.augment import Augment, augment
from tta_server.adapters.base import State, Step, accept, register, ungroup
from tta_server.adapters.bounds import Share
from tta_server.adapters.losses import soft_likelihood_ratio, symmetric_cross_entropy
from tta_server.adapters.moments import track_stats
from tta_server.models import Backbone, Output, Reference, Tensors

_TEMPERATURE = 1 / 3
_MOVING_SHARE = 0.1


@register
@dataclass(frozen=True)
class Roid(Descent):
    """Robust entropy-free self-training with weight ensembling and prior correction.

    Attributes:
        source_share: How far every step pulls the parameters back to the source, in [0, 1]; the paper: 0.01.
        consistency: Whether the answer to an augmented view is trained too; costs a second forward.
        prior: Whether answers are corrected by how often each class was predicted.
        augment: Makes the view from (images, index, generator); replaced in tests.
    """

    source_share: Share = 0.01
    consistency: bool = True
    prior: bool = True
    augment: Augment = augment

    name: ClassVar[str] = "roid"
    unbounded: ClassVar[frozenset[str]] = frozenset({"moving"})

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the source's scales and shifts, empty slots, a uniform moving prediction and a seed."""
        classes = backbone.spec.classes
        uniform = torch.full((classes,), 1 / classes, device=backbone.device)
        seed = torch.zeros((), dtype=torch.int64)
        return {**super().init(backbone), "moving/prediction": uniform, "seed": seed}

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W), corrected by the prior."""
        return self._correct(state, super().predict(backbone, state, x))

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Take one gradient step on `x` (N, C, H, W)."""
        self._check_rows(backbone, x)
        seed = int(state["seed"].numpy())  # on the CPU by design
        view = self.augment(x, 0, torch.Generator().manual_seed(seed)) if self.consistency else None

        def loss(theta: Tensors) -> tuple[Tensor, tuple[Output, Tensor]]:
            output = backbone.forward(x, theta, "batch")
            weights = _weights(output.logits.detach(), state["moving/prediction"])
            value = (weights * soft_likelihood_ratio(output.logits)).sum() / len(x)
            if view is not None:
                other = backbone.forward(view, theta, "batch").logits
                value = value + (weights * symmetric_cross_entropy(other, output.logits)).sum() / len(x)
            return value, (output, weights)

        new, value, (output, weights) = descend(state, loss, self._optimizer())
        source = ungroup("theta", backbone.norm_affine())
        new = {n: torch.lerp(t, source[n], self.source_share) if n in source else t for n, t in new.items()}
        prediction = torch.lerp(
            state["moving/prediction"], output.logits.softmax(1).mean(0).to(state["moving/prediction"]), _MOVING_SHARE
        )
        new |= {"moving/prediction": prediction}
        new |= track_stats(state, output, self.stats_momentum)
        kept, accepted = accept(state, new | {"seed": state["seed"] + 1}, (weights > 0).any(), value, output.logits)
        return Step(
            kept,
            self._correct(state, output),
            {"accepted": accepted, "loss": value, "selected": (weights > 0).sum()},
        )

    def _correct(self, state: State, output: Output) -> Output:
        """Multiply probabilities by the smoothed prior; the section 'prior correction' of the paper."""
        if not self.prior:
            return output
        rows, classes = output.logits.shape
        if self.stats == "batch":
            prior, floor = output.logits.softmax(1).mean(0), max(1 / rows, 1 / classes)
        else:
            prior, floor = state["moving/prediction"], 1 / classes
        smoothing = floor / prior.max()
        factor = (prior + smoothing) / (1 + smoothing * classes)
        return output._replace(logits=output.logits + factor.log())


def _weights(logits: Tensor, moving: Tensor) -> Tensor:
    """Return the weight of each row (N,): 0 for those that are like what was predicted lately."""
    probabilities = logits.softmax(1)
    diversity = _unit_range(1 - cosine_similarity(moving[None].to(probabilities), probabilities, dim=1))
    certainty = _unit_range((probabilities * logits.log_softmax(1)).sum(1))
    weights = torch.exp(diversity * certainty / _TEMPERATURE)
    return torch.where(diversity >= diversity.mean(), weights, 0.0)


def _unit_range(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=1e-8)
