"""How far a stream may move from the source model: parameters are drawn back into a ball round where they began.

What counts as parameters each adapter declares (`Adapter.regions`). Distances are relative, ||theta - theta_0|| /
||theta_0||, over all parameters of one copy of them, so that networks of any size compare.
"""

import torch
from torch import Tensor

from tta_server.adapters import Adapter, State
from tta_server.adapters.declared import Region
from tta_server.models import Backbone, Tensors


class Trust:
    """A ball round the parameters of a fresh stream.

    A state may hold several copies of the parameters, such as a student's and a teacher's; each has its own ball.
    """

    def __init__(self, adapter: Adapter, backbone: Backbone, initial: State) -> None:
        """Take what the adapter declares, and where the initial state of its streams lies.

        Raises:
            ValueError: If what is measured has no size to begin with.
        """
        self._initial = initial
        self._balls = [(region, _sizes(adapter, region, initial)) for region in adapter.regions(backbone, initial)]

    def __bool__(self) -> bool:
        """Say whether there is anything to measure."""
        return bool(self._balls)

    def distance(self, state: State) -> float:
        """Return how far the farthest copy is from where it began; 0 if there is none."""
        return self.update(self._initial, state)

    def update(self, old: State, new: State) -> float:
        """Return how far a step moved the copy that it moved farthest; 0 if there is none."""
        return max((_farthest(region, sizes, old, new) for region, sizes in self._balls), default=0.0)

    def project(self, state: State, radius: float) -> State:
        """Return `state` with every copy of the parameters at most `radius` from where it began, drawn back radially.

        Args:
            state: Finite.
            radius: Relative, > 0.
        """
        for region, sizes in self._balls:
            distance = _farthest(region, sizes, self._initial, state)
            if distance > radius:
                # Rounding must not put what is drawn back to the border outside.
                rounding = max(torch.finfo(state[name].dtype).eps for name in region.names) * (1 + radius)
                share = max(radius - rounding, 0) / distance
                drawn = self._draw(region, state, share)
                # What is measured need not be proportional to what is drawn: products of factors are not.
                while _farthest(region, sizes, self._initial, drawn) > radius:
                    share /= 2
                    drawn = self._draw(region, state, share)
                state = drawn
        return state

    def _draw(self, region: Region, state: State, share: float) -> State:
        drawn: dict[str, Tensor] = {}
        for name in region.names:
            # In double precision: in single, a far point times a small share is not where it should be.
            start = self._initial[name].double()
            drawn[name] = (start + share * (state[name].double() - start)).to(state[name].dtype)
        return {**state, **drawn}


def _sizes(adapter: Adapter, region: Region, initial: State) -> list[float]:
    sizes = [_norm(copy) for copy in region.copies(initial)]
    if not all(sizes):
        raise ValueError(f"adapter '{adapter.name}' measures parameters that begin at 0; measure what they result in")
    return sizes


def _farthest(region: Region, sizes: list[float], origin: State, state: State) -> float:
    pairs = zip(region.copies(origin), region.copies(state), sizes, strict=True)
    return max(_norm(_difference(copy, start)) / size for start, copy, size in pairs)


def _difference(copy: Tensors, start: Tensors) -> dict[str, Tensor]:
    return {name: copy[name].double() - tensor.double() for name, tensor in start.items()}


def _norm(tensors: Tensors) -> float:
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors.values()]).sum().sqrt())
