"""A backbone as adapters see it under `vmap`: what looks like one stream's forward is one forward for all of them.

Left to itself, `vmap` rewrites every operator of the network, and permutes the batch around every BatchNorm. Here the
whole forward is one operator with a batching rule of its own: put the streams' rows one after another, and let
BatchNorm layers tell them apart. Beneath `vmap`, torch's ordinary autograd keeps what a gradient needs (see
models/gradient.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from tta_server.models.backbone import EMPTY, Backbone, Output, Statistics, Tensors


@runtime_checkable
class Stacking(Protocol):
    """What a backbone must have beside `Backbone` to run several streams in one forward of its own."""

    def stacks(self, overrides: Iterable[str]) -> bool:
        """Return whether `forward_stacked` takes overrides of these names."""
        ...

    def forward_stacked(self, xs: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network on images (S, N, C, H, W), each override with S in front of its shape."""
        ...


def stacked(backbone: Backbone) -> Backbone:
    """Return `backbone` for use inside one `vmap` over streams; itself, if only `vmap` can stack it."""
    return cast(Backbone, _Stacked(backbone)) if isinstance(backbone, Stacking) else backbone


class _Stacked:
    """A backbone whose `forward` has a batching rule; the rest of it is the backbone's own."""

    def __init__(self, backbone: Any) -> None:  # noqa: ANN401
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._backbone, name)

    def forward(self, x: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run all streams at once; see `Backbone.forward`."""
        # Whoever differentiates by `torch.func` has tensors that need a gradient here; `vmap` does the rest.
        differentiated = any(tensor.requires_grad for tensor in (x, *overrides.values()))
        if differentiated or not self._backbone.stacks(overrides):
            output: Output = self._backbone.forward(x, overrides, statistics)
            return output
        call = _Call(self._backbone, tuple(overrides), statistics)
        logits, features, *moments = _Forward.apply(call, x, *overrides.values())
        return Output(logits, features, dict(zip(call.moments, moments, strict=True)))


@dataclass
class _Call:
    """One forward of all streams.

    Attributes:
        backbone: What runs.
        names: Of the overrides.
        statistics: Which mean and variance BatchNorm layers use.
        moments: Names of the moments that the forward reported.
    """

    backbone: Stacking
    names: tuple[str, ...]
    statistics: Statistics
    moments: tuple[str, ...] = ()


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(call: _Call, x: Tensor, *overrides: Tensor) -> Any:  # noqa: ANN401
        raise RuntimeError("a stacked backbone runs under vmap only")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], call: _Call, x: Tensor, *overrides: Tensor) -> Any:  # noqa: ANN401
        xs, *stacks = _in_front(info.batch_size, in_dims[1:], (x, *overrides))
        output = call.backbone.forward_stacked(xs, dict(zip(call.names, stacks, strict=True)), call.statistics)
        call.moments = tuple(output.moments)
        outputs = (*output[:2], *(tensor.detach() for tensor in output.moments.values()))
        return outputs, (0,) * len(outputs)


def _in_front(size: int, dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors with the streams' dimension first; one that all streams share is repeated."""
    return [
        tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for dim, tensor in zip(dims, tensors, strict=True)
    ]
