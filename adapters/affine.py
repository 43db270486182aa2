"""What the methods that move normalisation layers' scales and shifts by a gradient have in common."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tta_server.adapters.base import Adapter, State, group, ungroup
from tta_server.adapters.bounds import Betas, LearningRate, Momentum
from tta_server.adapters.declared import Region
from tta_server.adapters.moments import Normalised, Stats, init_stats
from tta_server.adapters.optim import Name, Optimizer
from tta_server.models import Backbone, Reference, Tensors
from tta_server.models.gradient import Aux, differentiate


@dataclass(frozen=True)
class Optimised(Adapter):
    """An adapter that follows a gradient.

    Attributes:
        lr: Learning rate, in (0, 10]. The papers: 2.5e-4 (SGD, ImageNet), 1e-3 (Adam, CIFAR).
        optimizer: "sgd" or "adam".
        momentum: SGD's momentum, in [0, 1).
        betas: Adam's decay rates, each in [0, 1).
    """

    lr: LearningRate = 2.5e-4
    optimizer: Name = "sgd"
    momentum: Momentum = 0.9
    betas: Betas = (0.9, 0.999)

    def _optimizer(self) -> Optimizer:
        return Optimizer(self.optimizer, self.lr, self.momentum, self.betas)


@dataclass(frozen=True)
class Descent(Normalised, Optimised):
    """An adapter that moves scales and shifts of normalisation layers by a gradient, unless it says what else."""

    @property
    def requires(self) -> frozenset[str]:
        """What the backbone must have."""
        return frozenset({"grad", "norm_affine"})

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the source's scales and shifts, empty optimiser slots and, for "ema", the source statistics."""
        return init_affine(backbone, self._optimizer(), self.stats)

    def regions(self, backbone: Backbone, initial: State) -> tuple[Region, ...]:
        """Return the scales and shifts."""
        return (Region.of([name for name in initial if name.startswith("theta/")]),)


def init_affine(backbone: Backbone, optimizer: Optimizer, stats: Stats) -> dict[str, Tensor]:
    """Return the source's scales and shifts (`theta/`), empty optimiser slots and, for "ema", the source statistics."""
    theta = {name: tensor.clone() for name, tensor in backbone.norm_affine().items()}
    return ungroup("theta", theta) | optimizer.init(theta) | (init_stats(backbone) if stats == "ema" else {})


def descend(
    state: State, loss: Callable[[Tensors], tuple[Tensor, Aux]], optimizer: Optimizer
) -> tuple[dict[str, Tensor], Tensor, Aux]:
    """Take one gradient step on the `theta/` group of `state`.

    Args:
        state: With `theta/` and the optimiser's slots.
        loss: From parameters to a 0-d loss, and what else the forward gave.
        optimizer: How to step.

    Returns:
        The new `theta/` and slots, the loss, and what `loss` gave beside it, without gradient.
    """
    theta = group(state, "theta")
    gradients, value, aux = differentiate(loss, theta)
    moved, slots = optimizer.step(theta, gradients, state)
    return ungroup("theta", moved) | slots, value, aux
