"""What an adapter is, and the registry of them."""

import dataclasses
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from tta_server.models import Backbone, Output, Reference, Tensors

State = Tensors
"""Everything that a stream has learnt: a value, never written in place. Names are `group/name`, such as
`theta/bn1.weight` or `momentum/bn1.weight`."""


class TooFewImagesError(ValueError):
    """A batch has too few images to be answered from its own statistics: the fault of whoever sent it."""


class Step(NamedTuple):
    """The result of learning from one batch.

    Attributes:
        state: The new state; the one given when nothing could be learnt.
        output: What the forward that was learnt from said, made before the update.
        scalars: 0-d tensors left on the device: `accepted` (bool) always, and what the method reports beside it.
    """

    state: State
    output: Output
    scalars: Tensors


class Adapter(Protocol):
    """A method: a frozen dataclass whose fields are its whole configuration.

    Attributes:
        name: What `create` knows it by.
        output_kind: What the `logits` of its outputs are: "logits" or "probabilities".
        stackable: Whether `torch.func.vmap` over stacked states equals the loop; not if it draws random numbers.
    """

    name: ClassVar[str]
    output_kind: ClassVar[str]
    stackable: ClassVar[bool]

    @property
    def requires(self) -> frozenset[str]:
        """What the backbone ("grad", "batchnorm", "norm_affine") and its bundle ("reference.<part>") must have."""
        ...

    @property
    def batch_coupled(self) -> bool:
        """Whether one row's answer depends on the other rows, so that requests may not share a forward."""
        ...

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the state that answers as the source model does; a full reset."""
        ...

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W); changes nothing."""
        ...

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Learn from `x` (N, C, H, W); returns a new state and leaves `state` as it was."""
        ...


A = TypeVar("A", bound=type)

_REGISTRY: dict[str, Any] = {}


def register(cls: A) -> A:
    """Make the adapter class `cls` known to `create` under its `name`."""
    _REGISTRY[cls.name] = cls  # type: ignore[attr-defined]
    return cls


def names() -> tuple[str, ...]:
    """Return the names of all adapters, sorted."""
    return tuple(sorted(_REGISTRY))


def create(name: str, /, **settings: Any) -> Adapter:  # noqa: ANN401
    """Return the adapter called `name`.

    Args:
        name: One of `names()`.
        settings: Its fields; the others keep their defaults.

    Raises:
        ValueError: If the name or a setting is unknown, or a value is out of range.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown adapter '{name}'; use one of {', '.join(names())}")
    fields = {field.name: field for field in dataclasses.fields(_REGISTRY[name])}
    unknown = sorted(settings.keys() - fields.keys())
    if unknown:
        has = f"it has {', '.join(fields)}" if fields else "it has none"
        raise ValueError(f"adapter '{name}' has no setting '{unknown[0]}'; {has}")
    adapter: Adapter = _REGISTRY[name](**settings)
    return adapter


def check(adapter: Adapter, backbone: Backbone, reference: Reference | None = None) -> None:
    """Refuse an adapter that `backbone` and its reference bundle cannot serve.

    Raises:
        ValueError: If one of them lacks something that the adapter requires.
    """
    parts = reference.parts if reference else frozenset()
    missing = sorted(adapter.requires - backbone.spec.capabilities - {f"reference.{part}" for part in parts})
    if not missing:
        return
    needs = f"adapter '{adapter.name}' needs {missing[0]}, which"
    if missing[0].startswith("reference."):
        raise ValueError(
            f"{needs} the reference bundle of model '{backbone.spec.name}' does not have; make it with "
            f"'tta-server calibrate --model {backbone.spec.name} --data DIR'"
        )
    raise ValueError(f"{needs} backbone '{backbone.spec.name}' does not have; use 'source' or another backbone")


def group(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of `state` under `prefix/`, by the rest of their names."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in state.items() if name.startswith(f"{prefix}/")}


def ungroup(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    """Return `tensors` with `prefix/` put in front of their names."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def accept(old: State, new: State, selected: Tensor, *signals: Tensor) -> tuple[State, Tensor]:
    """Return `new` if something was selected and every number in it is finite, else `old`, bit for bit.

    The last gate of every adapter: no image, however broken, gets a non-finite number into a state. It decides on
    the device and per stream under `vmap`, so it costs no synchronisation.

    Args:
        old: The state before the step.
        new: What the step made: names, shapes and types of `old`; a name that it lacks stays as it was.
        selected: Whether the step has anything to learn from (bool, 0-d).
        signals: What must be finite too, such as the loss: a state can be finite by luck.

    Returns:
        The state to keep, and whether that is the new one (bool, 0-d).
    """
    finite = [tensor.isfinite().all() for tensor in (*new.values(), *signals) if tensor.is_floating_point()]
    accepted = torch.stack([selected, *finite]).all()
    kept = {
        # A seed lives on the CPU: only states that have one wait for the device here.
        name: torch.where(accepted.to(old[name].device), new[name], old[name]) if name in new else old[name]
        for name in old
    }
    return kept, accepted
