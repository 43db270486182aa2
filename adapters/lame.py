"""LAME: correct the frozen model's predictions so that neighbours in feature space agree; learn nothing.

Source: Boudiaf et al., CVPR 2022, arXiv:2201.05718, equations 2 to 6. Reference: LAME/src/adaptation/lame.py.
Differs: a batch of one gets the plain softmax, where the reference's rbf affinity divides by zero; the stopping test is
applied with a mask on the device, not by asking the host after every iteration.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tta_server.adapters.base import Adapter, State, Step, register
from tta_server.adapters.bounds import Within
from tta_server.adapters.losses import log_probabilities
from tta_server.models import Backbone, Output, Reference

_ITERATIONS = 100
_TOLERANCE = 1e-8


@register
@dataclass(frozen=True)
class Lame(Adapter):
    """Laplacian-adjusted maximum-likelihood estimation over each batch.

    Attributes:
        affinity: "rbf" (the paper's choice), "knn" or "linear".
        neighbours: For "rbf" which neighbour sets the width, itself counted; for "knn" how many, itself not; in
            [1, 1024].
    """

    affinity: Literal["rbf", "knn", "linear"] = "rbf"
    neighbours: Annotated[int, Within(1, 1024, why="no batch has more images")] = 5

    name: ClassVar[str] = "lame"
    stackable: ClassVar[bool] = True
    batch_coupled: ClassVar[bool] = True

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the empty state."""
        return {}

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W); the logits are the logarithms of the assignment."""
        output = backbone.forward(x)._replace(moments={})
        if len(x) < 2:
            return output
        assigned = self._propagate(output.logits.softmax(1), self._affinity(normalize(output.features)))
        return output._replace(logits=log_probabilities(assigned))

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Return the answer and the state as it was."""
        output = self.predict(backbone, state, x)
        return Step(state, output, {"accepted": torch.zeros((), dtype=torch.bool, device=x.device)})

    def _affinity(self, features: Tensor) -> Tensor:
        """Return the kernel (N, N) of unit features (N, D)."""
        if self.affinity == "linear":
            return features @ features.T
        squares = features.square().sum(1)
        # The product form, unlike cdist, stacks under vmap; rounding may leave a negative square.
        distances = (squares[:, None] + squares[None] - 2 * features @ features.T).clamp(min=0).sqrt()
        count = min(self.neighbours, len(features) - (self.affinity == "knn"))
        if self.affinity == "rbf":
            # Copies of one image have no distance; a width of zero would make their affinity 0 over 0.
            width = distances.topk(count, largest=False).values[:, -1].mean().clamp(min=1e-6)
            return torch.exp(-distances.square() / (2 * width.square()))
        nearest = distances.topk(count + 1, largest=False).indices[:, 1:]
        return torch.zeros_like(distances).scatter(1, nearest, 1.0)

    @staticmethod
    def _propagate(probabilities: Tensor, kernel: Tensor) -> Tensor:
        """Return the assignment (N, K) that minimises the bound of equation 5, by its fixed point, equation 6."""
        exact = torch.promote_types(probabilities.dtype, kernel.dtype)  # a network's answers may be finer or coarser
        kernel, unary = kernel.to(exact), -torch.log(probabilities.to(exact) + 1e-10)
        assigned = (-unary).softmax(1)
        energy = torch.full_like(unary.sum(), torch.inf)
        done = torch.zeros_like(energy, dtype=torch.bool)
        for iteration in range(_ITERATIONS):
            pairwise = kernel @ assigned
            moved = torch.where(done, assigned, (pairwise - unary).softmax(1))
            new = (unary * moved - pairwise * moved + moved * moved.clamp(min=1e-20).log()).sum()
            if iteration > 1:
                done = done | ((new - energy).abs() <= _TOLERANCE * energy.abs())
            assigned, energy = moved, torch.where(done, energy, new)
        return assigned
