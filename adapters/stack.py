"""Stack the states of many streams, so that one forward and one step serve all of them.

An adapter is written for one stream; `torch.func.vmap` runs it over stacked states. What slot i gets depends on what
is in slot i, the shapes and the number of slots, and not on what fills the other slots, bit for bit: a slot can be
replayed with the others filled by copies of itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import vmap

from adapters.base import Adapter, State, Step
from models import Backbone, Output


def stack(states: Sequence[State]) -> dict[str, Tensor]:
    """Return the tensors of S states of one layout, each (S, ...), in memory of their own.

    Raises:
        ValueError: If there is no state, or two differ in names, shapes, types or devices.
    """
    if not states:
        raise ValueError("there is no state to stack; give at least one")
    expected = _layout(states[0])
    for i, state in enumerate(states):
        if _layout(state) != expected:
            raise ValueError(
                f"state {i} differs from state 0 in names, shapes, types or devices; stack streams of one adapter"
            )
    # A tensor that all states share is copied too: a slot's bits must not depend on who else has the tensor.
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def unstack(stacked: State, streams: int) -> list[State]:
    """Return the states of the `streams` slots of `stacked`.

    The tensors of one state share a piece of memory that no other state shares: a state that is kept keeps alive
    nothing of its neighbours.
    """
    states: list[dict[str, Tensor]] = [{} for _ in range(streams)]
    # One copy a stream and type, in place of one a tensor.
    for names in _by_type(stacked):
        shapes = [stacked[name].shape[1:] for name in names]
        rows = torch.cat([stacked[name].reshape(streams, -1) for name in names], 1)
        for state, row in zip(states, rows, strict=True):
            parts = row.clone().split([shape.numel() for shape in shapes])
            state |= {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
    return [{name: state[name] for name in stacked} for state in states]


def predict_stacked(adapter: Adapter, backbone: Backbone, states: Sequence[State], xs: Tensor) -> Output:
    """Answer one batch of each stream in one forward.

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

    def predict(state: State, x: Tensor) -> tuple[Tensor, Tensor, State]:
        logits, features, moments = adapter.predict(backbone, state, x)
        return logits, features, dict(moments)

    return Output(*vmap(predict)(stack(states), xs))


def adapt_stacked(adapter: Adapter, backbone: Backbone, states: Sequence[State], xs: Tensor) -> list[Step]:
    """Learn from one batch of each stream in one step; a stream's step is judged by its own slot alone.

    Args:
        adapter: Shared by all streams; must be `stackable`.
        backbone: Shared by all streams.
        states: One for each stream; all of one layout.
        xs: Images (S, N, C, H, W); slot i is learnt from by `states[i]`.

    Returns:
        What `adapter.adapt` returns of each stream. A state has memory of its own; outputs and scalars are views of
        what all streams got together, to be read and let go.

    Raises:
        ValueError: If the adapter does not stack, the states or images do not fit together, or `adapt` refuses.
    """
    _check(adapter, states, xs)

    def adapt(state: State, x: Tensor) -> tuple[State, tuple[Tensor, Tensor, State], State]:
        new, (logits, features, moments), scalars = adapter.adapt(backbone, state, x)
        return dict(new), (logits, features, dict(moments)), dict(scalars)

    new, (logits, features, moments), scalars = vmap(adapt)(stack(states), xs)
    streams = len(states)
    outputs = map(Output, logits, features, _slots(moments, streams))
    return list(map(Step, unstack(new, streams), outputs, _slots(scalars, streams)))


def _check(adapter: Adapter, states: Sequence[State], xs: Tensor) -> None:
    if not adapter.stackable:
        raise ValueError(f"adapter '{adapter.name}' cannot be stacked; step its streams one by one")
    if xs.dim() != 5 or len(xs) != len(states):
        raise ValueError(
            f"images of {len(states)} streams have shape {tuple(xs.shape)}, expected ({len(states)}, N, C, H, W)"
        )


def _layout(state: State) -> dict[str, tuple[torch.Size, torch.dtype, torch.device]]:
    return {name: (tensor.shape, tensor.dtype, tensor.device) for name, tensor in state.items()}


def _by_type(stacked: State) -> list[list[str]]:
    names: dict[tuple[torch.dtype, torch.device], list[str]] = {}
    for name, tensor in stacked.items():
        names.setdefault((tensor.dtype, tensor.device), []).append(name)
    return list(names.values())


def _slots(stacked: State, streams: int) -> list[State]:
    parts = {name: tensor.unbind() for name, tensor in stacked.items()}
    return [{name: slots[i] for name, slots in parts.items()} for i in range(streams)]
