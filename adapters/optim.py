"""Optimisers as pure functions: parameters, gradients and slots in, new parameters and slots out.

They reproduce torch.optim's arithmetic, so that a method behaves as its authors' code does.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tta_server.models import Tensors

Name = Literal["sgd", "adam"]


@dataclass(frozen=True)
class Optimizer:
    """SGD with momentum, or Adam.

    Attributes:
        name: "sgd" or "adam".
        lr: Learning rate, > 0.
        momentum: SGD's momentum, in [0, 1); Adam ignores it.
        betas: Adam's decay rates, each in [0, 1).
        eps: Adam's floor of the denominator.
    """

    name: Name
    lr: float
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.name not in ("sgd", "adam"):
            raise ValueError(f"optimizer must be 'sgd' or 'adam', got '{self.name}'")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be > 0 and finite, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")

    def init(self, parameters: Tensors) -> dict[str, Tensor]:
        """Return empty slots for `parameters`, named as in a state: `momentum/...`, or `adam...`."""
        if self.name == "sgd":
            return {f"momentum/{name}": torch.zeros_like(tensor) for name, tensor in parameters.items()}
        slots = {f"adam_mean/{name}": torch.zeros_like(tensor) for name, tensor in parameters.items()}
        slots |= {f"adam_square/{name}": torch.zeros_like(tensor) for name, tensor in parameters.items()}
        device = next(iter(parameters.values())).device if parameters else None
        return slots | {"adam/step": torch.zeros((), device=device)}

    def step(
        self, parameters: Tensors, gradients: Tensors, slots: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the parameters and slots after one update.

        Args:
            parameters: Values before the update.
            gradients: One for each parameter, same shape.
            slots: What `init` or the last `step` returned; other names are ignored.
        """
        return (self._sgd if self.name == "sgd" else self._adam)(parameters, gradients, slots)

    def _sgd(
        self, parameters: Tensors, gradients: Tensors, slots: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        momentum = {name: slots[f"momentum/{name}"] * self.momentum + gradient for name, gradient in gradients.items()}
        moved = {name: tensor - self.lr * momentum[name] for name, tensor in parameters.items()}
        return moved, {f"momentum/{name}": tensor for name, tensor in momentum.items()}

    def _adam(
        self, parameters: Tensors, gradients: Tensors, slots: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        first, second = self.betas
        step = slots["adam/step"] + 1
        new: dict[str, Tensor] = {"adam/step": step}
        moved = {}
        for name, tensor in parameters.items():
            gradient = gradients[name]
            mean = torch.lerp(slots[f"adam_mean/{name}"], gradient, 1 - first)
            square = slots[f"adam_square/{name}"] * second + gradient.square() * (1 - second)
            denominator = square.sqrt() / _correction(second, step).sqrt() + self.eps
            moved[name] = tensor - self.lr / _correction(first, step) * mean / denominator
            new |= {f"adam_mean/{name}": mean, f"adam_square/{name}": square}
        return moved, new


def _correction(beta: float, step: Tensor) -> Tensor:
    # 1 - beta**step; written like that, the float32 of a step count would leave 4 digits of it at the first steps.
    return -torch.expm1(step * (math.log(beta) if beta else -math.inf))
