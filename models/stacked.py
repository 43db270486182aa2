"""A backbone as adapters see it under `vmap`: what looks like one stream's forward is one forward for all of them.

Left to itself, `vmap` rewrites every operator of the network, and permutes the batch around every BatchNorm. Here the
whole forward is one operator with a batching rule of its own: put the streams' rows one after another, let BatchNorm
layers tell them apart, and let torch's ordinary autograd keep what its gradient needs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

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
        if x.requires_grad or not self._backbone.stacks(overrides):
            output: Output = self._backbone.forward(x, overrides, statistics)
            return output
        learnt = tuple(tensor.requires_grad for tensor in overrides.values())
        call = _Call(self._backbone, tuple(overrides), statistics, learnt)
        logits, features, *moments = _Forward.apply(call, x, *overrides.values())
        return Output(logits, features, dict(zip(call.moments, moments, strict=True)))


class _Tape(NamedTuple):
    outputs: tuple[Tensor, Tensor]
    leaves: list[Tensor]


@dataclass
class _Call:
    """One forward of all streams, kept until its gradient is taken.

    Attributes:
        backbone: What runs.
        names: Of the overrides.
        statistics: Which mean and variance BatchNorm layers use.
        learnt: Which of the overrides need a gradient.
        moments: Names of the moments that the forward reported.
        tape: What torch's autograd kept of it.
    """

    backbone: Stacking
    names: tuple[str, ...]
    statistics: Statistics
    learnt: tuple[bool, ...]
    moments: tuple[str, ...] = ()
    tape: _Tape | None = None

    def run(self, xs: Tensor, stacks: Sequence[Tensor]) -> Output:
        """Run on images (S, N, C, H, W) and the overrides' values, S in front."""
        # Not the tensors given: theirs is the gradient of `vmap`'s caller, which `tape` only serves.
        values = [tensor.detach().requires_grad_(learnt) for tensor, learnt in zip(stacks, self.learnt, strict=True)]
        with torch.set_grad_enabled(any(self.learnt)):
            output = self.backbone.forward_stacked(xs, dict(zip(self.names, values, strict=True)), self.statistics)
        leaves = [value for value in values if value.requires_grad]
        if leaves:
            self.tape = _Tape((output.logits, output.features), leaves)
        self.moments = tuple(output.moments)
        return output

    def gradients(self, logits: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of the overrides that need one, given those of the outputs, S in front."""
        if self.tape is None:
            raise RuntimeError("the gradient of a stacked forward can be taken once")
        (outputs, leaves), self.tape = self.tape, None
        return torch.autograd.grad(outputs, leaves, (logits, features), allow_unused=True, materialize_grads=True)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(call: _Call, x: Tensor, *overrides: Tensor) -> Any:  # noqa: ANN401
        raise RuntimeError("a stacked backbone runs under vmap only")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
        ctx.call = inputs[0]
        ctx.save_for_backward(inputs[1])
        ctx.mark_non_differentiable(*output[2:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], call: _Call, x: Tensor, *overrides: Tensor) -> Any:  # noqa: ANN401
        xs, *stacks = _in_front(info.batch_size, in_dims[1:], (x, *overrides))
        output = call.run(xs, stacks)
        outputs = tuple(tensor.detach() for tensor in (*output[:2], *output.moments.values()))
        return outputs, (0,) * len(outputs)

    @staticmethod
    def backward(ctx: Any, logits: Tensor, features: Tensor, *_: Tensor) -> Any:  # noqa: ANN401
        # The images tell `vmap` that there are streams: slopes that are the same for all of them would not.
        gradients = iter(_Backward.apply(ctx.call, *ctx.saved_tensors, logits, features))
        return None, None, *(next(gradients) if learnt else None for learnt in ctx.call.learnt)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(call: _Call, x: Tensor, logits: Tensor, features: Tensor) -> Any:  # noqa: ANN401
        raise RuntimeError("a stacked backbone runs under vmap only")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], call: _Call, x: Tensor, *slopes: Tensor) -> Any:  # noqa: ANN401
        gradients = call.gradients(*_in_front(info.batch_size, in_dims[2:], slopes))
        return gradients, (0,) * len(gradients)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:  # noqa: ANN401
        raise RuntimeError("a stacked forward has no second derivative")


def _in_front(size: int, dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors with the streams' dimension first; one that all streams share is repeated."""
    return [
        tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for dim, tensor in zip(dims, tensors, strict=True)
    ]
