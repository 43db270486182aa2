"""The laws of what an adapter says of itself."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, get_args, get_origin

import torch
from torch import Tensor

from tta_server.adapters.base import State
from tta_server.adapters.bounds import bounds, hints
from tta_server.adapters.declared import Region
from tta_server.adapters.laws.law import bits, finite, law, layout, must
from tta_server.adapters.laws.subject import Given, Subject
from tta_server.models import Reference


@law
def settings_are_bounded(subject: Subject) -> None:
    """Demand that the adapter is a value, and that every number among its settings has a most that is refused."""
    adapter: Any = subject.adapter
    cls: Any = type(adapter)
    must(hash(adapter) == hash(dataclasses.replace(adapter)), "equal settings make equal adapters")
    for name, hint in hints(cls).items():
        kind, within = bounds(hint)
        numbers = _kinds(kind) & {int, float}
        if not numbers:
            continue
        must(within is not None, f"setting '{name}' has no bounds; annotate it with adapters.bounds.Within")
        for value in (10**12 if numbers == {int} else 1e12, math.nan, math.inf):
            _refuses(adapter, name, (value,) * 2 if tuple in _kinds(kind) else value)


@law
def answers_follow_only_what_is_declared(subject: Subject) -> None:
    """Law 12: beside statistics, only what a region holds or what the adapter says is unbounded changes an answer."""
    state, x = subject.learn(subject.begin(), 2), subject.batches[3]
    held = {name for region in _regions(subject) for name in region.names} | set(_statistics(subject, state))
    expected = subject.logits(state, x)
    moved: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        group = name.partition("/")[0]
        if name not in held and group not in subject.adapter.unbounded and tensor.is_floating_point():
            own = moved.setdefault(group, {})
            own[name] = tensor * (1000 + len(own)) * (-1) ** len(own) + 1 + len(own)  # each in another way
    for tensors in moved.values():
        same = torch.equal(subject.logits({**state, **tensors}, x), expected)
        must(same, f"answers follow one of {list(tensors)}, in no region and in no group that is unbounded")


@law
def regions_measure_what_they_hold(subject: Subject) -> None:
    """Law 12: a region holds float tensors of the state, begins with a size, and sees them move."""
    initial = subject.begin()
    generator = torch.Generator().manual_seed(0)
    for region in _regions(subject):
        known = all(name in initial and initial[name].is_floating_point() for name in region.names)
        must(known and bool(region.names), f"a region holds {region.names}, expected float tensors of a state")
        moved = {
            name: initial[name] + torch.randn(initial[name].shape, generator=generator).to(initial[name])
            for name in region.names
        }
        for start, copy in zip(region.copies(initial), region.copies({**initial, **moved}), strict=True):
            size = sum(float(tensor.double().norm()) for tensor in start.values())
            must(size > 0, "what a region measures begins at 0; measure what it results in")
            seen = any(not torch.equal(copy[name], tensor) for name, tensor in start.items())
            must(seen, "a region does not see its tensors move")


@law
def alone_it_answers_without_moving_statistics(subject: Subject) -> None:
    """Law 13: what `alone` returns does not follow the statistics of a stream."""
    try:
        alone = subject.adapter.alone()
    except ValueError:
        return
    state, x = subject.learn(subject.begin(), 2), subject.batches[3]
    other = {**state, **{name: state[name] + 1 for name in _statistics(subject, state)}}
    one, two = (alone.predict(subject.backbone, kept, x).logits for kept in (state, other))
    must(torch.equal(one, two), "what `alone` returns follows the statistics of the stream")


@law
def a_fresh_state_takes_what_is_prepared(subject: Subject) -> None:
    """Law 14: the part of the bundle is finite, made alike each time, and a stream can begin with it."""
    part, backbone = subject.adapter.part, subject.backbone
    if part is None:
        return
    one, other = (subject.adapter.prepare(backbone, Given(backbone)) for _ in range(2))
    must(bits(one) == bits(other) and finite(one), f"part '{part.name}' is not finite, or differs each time")
    kept = {name: t for name, t in subject.reference.tensors.items() if not name.startswith(f"{part.name}/")}
    made = {f"{part.name}/{name}": tensor for name, tensor in one.items()}
    initial = subject.adapter.init(backbone, Reference(backbone.spec.digest, kept | made))
    step = subject.adapter.adapt(backbone, initial, subject.batches[0])
    must(layout(step.state) == layout(initial), f"a stream that begins with part '{part.name}' cannot learn")


def _kinds(hint: Any) -> set[Any]:  # noqa: ANN401
    """Return the types that an annotation is made of."""
    if get_origin(hint) is Callable:
        return {Callable}
    return {get_origin(hint) or hint}.union(*map(_kinds, get_args(hint)))


def _regions(subject: Subject) -> tuple[Region, ...]:
    return subject.adapter.regions(subject.backbone, subject.begin())


def _statistics(subject: Subject, state: State) -> list[str]:
    known = subject.backbone.norm_stats()
    return [name for name in state if name.partition("/")[2] in known]


def _refuses(adapter: Any, name: str, value: object) -> None:  # noqa: ANN401
    try:
        dataclasses.replace(adapter, **{name: value})
    except ValueError as error:
        must(name in str(error), f"setting '{name}' of {value} is refused without its name: {error}")
    else:
        must(False, f"setting '{name}' may be {value}")
