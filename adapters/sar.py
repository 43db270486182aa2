"""SAR: lower the entropy of reliable samples where the loss is flat, and start again when the model collapses.

Source: Niu et al., ICLR 2023, arXiv:2302.12400, equations 2 to 4. Reference: SAR/sar.py and sam.py.
Differs: the layers left alone are the last quarter by position, not by names that few networks have; margins are
fractions of ln K; a step without a reliable sample moves nothing, where the reference's momentum goes on; the recovery
also clears momentum and the moving entropy, and its threshold can be set; `stats="ema"` answers from moving statistics.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from tta_server.adapters.affine import init_affine
from tta_server.adapters.base import State, Step, accept, group, register, ungroup
from tta_server.adapters.bounds import LearningRate, Momentum, PositiveShare, Within
from tta_server.adapters.declared import Region
from tta_server.adapters.losses import entropy
from tta_server.adapters.moments import Normalised, track_stats
from tta_server.adapters.optim import Optimizer
from tta_server.models import Backbone, Output, Reference, Tensors
from tta_server.models.gradient import differentiate

_MOVING_SHARE = 0.1


@register
@dataclass(frozen=True)
class Sar(Normalised):
    """Sharpness-aware and reliable entropy minimisation with model recovery.

    Attributes:
        lr: Learning rate of SGD, in (0, 10].
        momentum: In [0, 1).
        rho: Radius of the neighbourhood whose worst point is descended from, in (0, 10]; the paper: 0.05.
        e_margin: Entropy below which a sample is reliable, as a fraction of ln K, in (0, 1]; the paper: 0.4.
        reset_margin: Moving entropy below which the stream starts again, as a fraction of ln K, in [0, 1); 0 never
            does. The paper's 0.2 nats at K = 1000 are 0.029.
        frozen_share: Share of the normalisation layers, from the output side, that stays as it was, in [0, 1).
    """

    lr: LearningRate = 2.5e-4
    momentum: Momentum = 0.9
    rho: Annotated[float, Within(0, 10, above=True)] = 0.05
    e_margin: PositiveShare = 0.4
    reset_margin: Annotated[float, Within(0, 1, below=True)] = 0.029
    frozen_share: Annotated[float, Within(0, 1, below=True)] = 0.25

    name: ClassVar[str] = "sar"
    requires: ClassVar[frozenset[str]] = frozenset({"grad", "norm_affine"})
    stackable: ClassVar[bool] = True

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the source's scales and shifts of the lower layers, empty slots and no moving entropy."""
        state = init_affine(backbone, self._optimizer(), self.stats)
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in backbone.norm_affine()))
        upper = layers[len(layers) - int(len(layers) * self.frozen_share) :]
        dropped = {
            f"{kind}/{layer}.{end}" for kind in ("theta", "momentum") for layer in upper for end in ("weight", "bias")
        }
        kept = {name: tensor for name, tensor in state.items() if name not in dropped}
        nothing = torch.zeros((), device=backbone.device)
        return kept | {"moving/entropy": nothing, "moving/seen": nothing.bool()}

    def regions(self, backbone: Backbone, initial: State) -> tuple[Region, ...]:
        """Return the scales and shifts of the lower layers."""
        return (Region.of([name for name in initial if name.startswith("theta/")]),)

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Take one sharpness-aware step on the reliable images of `x` (N, C, H, W)."""
        self._check_rows(backbone, x)
        bound = self.e_margin * math.log(backbone.spec.classes)

        def loss_among(among: Tensor) -> Callable[[Tensors], tuple[Tensor, tuple[Output, Tensor]]]:
            def loss(theta: Tensors) -> tuple[Tensor, tuple[Output, Tensor]]:
                output = backbone.forward(x, theta, "batch")
                entropies = entropy(output.logits)
                reliable = among & (entropies.detach() < bound)
                return _mean(entropies, reliable), (output, reliable)

            return loss

        theta = group(state, "theta")
        everyone = torch.ones(len(x), dtype=torch.bool, device=x.device)
        slope, _, (output, reliable) = differentiate(loss_among(everyone), theta)
        norm = torch.stack([gradient.square().sum() for gradient in slope.values()]).sum().sqrt()
        worst = {name: theta[name] + self.rho / (norm + 1e-12) * gradient for name, gradient in slope.items()}
        gradients, value, (_, selected) = differentiate(loss_among(reliable), worst)
        moved, slots = self._optimizer().step(theta, gradients, state)
        new = ungroup("theta", moved) | slots | self._watch(state, value.to(state["moving/entropy"]))
        new, collapsed = self._recover(backbone, new)
        new |= track_stats(state, output, self.stats_momentum)
        kept, accepted = accept(state, new, selected.any(), value, output.logits)
        counts = {"reliable": reliable.sum(), "selected": selected.sum(), "reset": collapsed & accepted}
        return Step(kept, output, {"accepted": accepted, "loss": value, **counts})

    def _watch(self, state: State, value: Tensor) -> dict[str, Tensor]:
        moved = torch.where(state["moving/seen"], torch.lerp(state["moving/entropy"], value, _MOVING_SHARE), value)
        return {"moving/entropy": moved, "moving/seen": torch.ones_like(state["moving/seen"])}

    def _recover(self, backbone: Backbone, new: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Put everything that was learnt back to the source where the moving entropy is too low."""
        collapsed = new["moving/entropy"] < self.reset_margin * math.log(backbone.spec.classes)
        source = ungroup("theta", backbone.norm_affine())
        start = {name: source[name] if name in source else torch.zeros_like(tensor) for name, tensor in new.items()}
        return {name: torch.where(collapsed, start[name], tensor) for name, tensor in new.items()}, collapsed

    def _optimizer(self) -> Optimizer:
        return Optimizer("sgd", self.lr, self.momentum)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
