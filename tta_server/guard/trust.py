"""How far a stream may move from the source model: parameters are drawn back into a ball round it.

Distances are relative, ||theta - theta_0|| / ||theta_0||, over all parameters of one copy of them, so that networks
of any size compare.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tta_server.adapters import State
from tta_server.models import Backbone


class Trust:
    """A ball round the source's parameters.

    A state may hold several copies of the parameters, such as a student's and a teacher's; each has its own ball.
    """

    def __init__(self, backbone: Backbone, initial: State) -> None:
        """Find the copies of the backbone's parameters in the initial state of a stream."""
        weights = backbone.weights()
        groups: dict[str, list[str]] = {}
        for name in initial:
            copy, _, parameter = name.partition("/")
            if parameter in weights:
                groups.setdefault(copy, []).append(name)
        # Slots of an optimiser are named after parameters too, but do not start from their values.
        self._source = {
            copy: {name: initial[name] for name in names}
            for copy, names in groups.items()
            if all(torch.equal(initial[name], weights[name.partition("/")[2]]) for name in names)
        }
        self._size = {copy: _norm(source) for copy, source in self._source.items()}

    def __bool__(self) -> bool:
        """Say whether there is anything to measure."""
        return bool(self._source)

    def distance(self, state: State) -> float:
        """Return how far the farthest copy is from the source; 0 if there is none."""
        return self._farthest(state, None)

    def update(self, old: State, new: State) -> float:
        """Return how far a step moved the copy that it moved farthest; 0 if there is none."""
        return self._farthest(new, old)

    def project(self, state: State, radius: float) -> State:
        """Return `state` with every copy of the parameters at most `radius` from the source, drawn back radially.

        Args:
            state: Finite.
            radius: Relative, > 0.
        """
        drawn: dict[str, Tensor] = {}
        for copy, source in self._source.items():
            distance = _norm(_difference(state, source)) / self._size[copy]
            if distance > radius:
                # Rounding must not put what is drawn back to the border outside.
                rounding = max(torch.finfo(tensor.dtype).eps for tensor in source.values()) * (1 + radius)
                share = max(radius - rounding, 0) / distance
                for name, tensor in source.items():
                    # In double precision: in single, a far point times a small share is not where it should be.
                    moved = tensor.double() + share * (state[name].double() - tensor.double())
                    drawn[name] = moved.to(tensor.dtype)
        return {**state, **drawn} if drawn else state

    def _farthest(self, state: State, origin: State | None) -> float:
        found = [
            _norm(_difference(state, source if origin is None else {name: origin[name] for name in source}))
            / self._size[copy]
            for copy, source in self._source.items()
        ]
        return max(found, default=0.0)


def _difference(state: State, other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: state[name].double() - tensor.double() for name, tensor in other.items()}


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors.values()]).sum().sqrt())
