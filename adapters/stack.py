"""Stack the states of many streams, so that one forward and one step serve all of them.

An adapter is written for one stream; `torch.func.vmap` runs it over stacked states. What slot i gets depends on what
is in slot i, on i, the number of slots and the shapes, and not on what fills the other slots, bit for bit: a slot can
be replayed with the others filled by copies of itself.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import vmap

from tta_server.adapters.base import Adapter, State, Step
from tta_server.models import Backbone, Output
from tta_server.models.stacked import stacked

# On a CPU, rows whose activations stay in its caches are faster than more rows at once; measured on networks of three
# sizes (load_tests.streams). A learning step has more to spread over its rows than an answer.
_CPU_PREDICT_ROWS, _CPU_ADAPT_ROWS = 32, 64


def stack(states: Sequence[State]) -> dict[str, Tensor]:
    """Return the tensors of S states of one layout, each (S, ...), in memory of their own.

    Raises:
        ValueError: If there is no state, or two differ in names, shapes, types or devices.
    """
    _check_layouts(states)
    # A tensor that all states share is copied too: a slot's bits must not depend on who else has the tensor.
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def unstack(stacks: State, streams: int) -> list[State]:
    """Return the states of the `streams` slots of `stacks`.

    The tensors of one state share a piece of memory that no other state shares: a state that is kept keeps alive
    nothing of its neighbours.
    """
    states: list[dict[str, Tensor]] = [{} for _ in range(streams)]
    # One copy a stream and type, in place of one a tensor.
    for names in _by_type(stacks):
        shapes = [stacks[name].shape[1:] for name in names]
        rows = torch.cat([stacks[name].reshape(streams, -1) for name in names], 1)
        for state, row in zip(states, rows, strict=True):
            parts = row.clone().split([shape.numel() for shape in shapes])
            state |= {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
    return [{name: state[name] for name in stacks} for state in states]


def predict_stacked(adapter: Adapter, backbone: Backbone, states: Sequence[State], xs: Tensor) -> Output:
    """Answer one batch of each stream together.

    Args:
        adapter: Shared by all streams; must be `stackable`.
        backbone: Shared by all streams.
        states: One for each stream; all of one layout.
        xs: Images (S, N, C, H, W); slot i is answered from `states[i]`.

    Returns:
        What `adapter.predict` returns, each tensor with S in front.

    Raises:
        ValueError: If the adapter does not stack, the states or images do not fit together, or `predict` refuses.
    """
    _check(adapter, states, xs)
    together = stacked(backbone)

    def predict(state: State, x: Tensor) -> tuple[Tensor, Tensor, State]:
        logits, features, moments = adapter.predict(together, state, x)
        return logits, features, dict(moments)

    parts = [vmap(predict)(stack(states[part]), xs[part]) for part in _parts(xs, _CPU_PREDICT_ROWS)]
    logits, features, moments = zip(*parts, strict=True)
    found = {name: torch.cat([part[name] for part in moments]) for name in moments[0]}
    return Output(torch.cat(logits), torch.cat(features), found)


def adapt_stacked(adapter: Adapter, backbone: Backbone, states: Sequence[State], xs: Tensor) -> list[Step]:
    """Learn from one batch of each stream together; a stream's step is judged by its own slot alone.

    Args:
        adapter: Shared by all streams; must be `stackable`.
        backbone: Shared by all streams.
        states: One for each stream; all of one layout.
        xs: Images (S, N, C, H, W); slot i is learnt from by `states[i]`.

    Returns:
        What `adapter.adapt` returns of each stream. A state has memory of its own; outputs and scalars are views of
        what several streams got together, to be read and let go.

    Raises:
        ValueError: If the adapter does not stack, the states or images do not fit together, or `adapt` refuses.
    """
    _check(adapter, states, xs)
    together = stacked(backbone)

    def adapt(state: State, x: Tensor) -> tuple[State, tuple[Tensor, Tensor, State], State]:
        new, (logits, features, moments), scalars = adapter.adapt(together, state, x)
        return dict(new), (logits, features, dict(moments)), dict(scalars)

    steps: list[Step] = []
    for part in _parts(xs, _CPU_ADAPT_ROWS):
        new, (logits, features, moments), scalars = vmap(adapt)(stack(states[part]), xs[part])
        streams = len(logits)
        outputs = map(Output, logits, features, _slots(moments, streams))
        steps += map(Step, unstack(new, streams), outputs, _slots(scalars, streams))
    return steps


def _check(adapter: Adapter, states: Sequence[State], xs: Tensor) -> None:
    if not adapter.stackable:
        raise ValueError(f"adapter '{adapter.name}' cannot be stacked; step its streams one by one")
    if xs.dim() != 5 or len(xs) != len(states):
        raise ValueError(
            f"images of {len(states)} streams have shape {tuple(xs.shape)}, expected ({len(states)}, N, C, H, W)"
        )
    _check_layouts(states)


def _check_layouts(states: Sequence[State]) -> None:
    if not states:
        raise ValueError("there is no state to stack; give at least one")
    expected = layout(states[0])
    for i, state in enumerate(states):
        if layout(state) != expected:
            raise ValueError(
                f"state {i} differs from state 0 in names, shapes, types or devices; stack streams of one adapter"
            )


def _parts(xs: Tensor, cpu_rows: int) -> list[slice]:
    """Return which streams of `xs` (S, N, ...) run together: all, but on a CPU parts of like size."""
    streams, rows = xs.shape[:2]
    if xs.device.type != "cpu":
        return [slice(streams)]
    count = math.ceil(streams / max(1, cpu_rows // max(1, rows)))
    size = math.ceil(streams / count)
    return [slice(start, start + size) for start in range(0, streams, size)]


def layout(state: State) -> dict[str, tuple[torch.Size, torch.dtype, torch.device]]:
    """Return what states must have in common to be stacked, or to go on under other settings of their adapter."""
    return {name: (tensor.shape, tensor.dtype, tensor.device) for name, tensor in state.items()}


def _by_type(stacks: State) -> list[list[str]]:
    names: dict[tuple[torch.dtype, torch.device], list[str]] = {}
    for name, tensor in stacks.items():
        names.setdefault((tensor.dtype, tensor.device), []).append(name)
    return list(names.values())


def _slots(stacks: State, streams: int) -> list[State]:
    parts = {name: tensor.unbind() for name, tensor in stacks.items()}
    return [{name: slots[i] for name, slots in parts.items()} for i in range(streams)]
