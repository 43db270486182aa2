"""What an adapter is, and the registry of them."""

import dataclasses
import re
from abc import ABC, abstractmethod
from importlib.metadata import entry_points
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from tta_server.adapters.bounds import check_settings
from tta_server.adapters.declared import Part, Region, SourceImages
from tta_server.models import Backbone, Output, Reference, Tensors
from tta_server.models.importing import import_object

_NAME = re.compile(r"[a-z0-9_-]+")

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


class Adapter(ABC):
    """A method: a frozen dataclass whose fields are its whole configuration.

    A subclass gives its `name`, says what it differs in of what stands here, and has `init`, `predict` and `adapt`.
    Numbers among its fields have bounds in their annotations (see `adapters.bounds`).

    Attributes:
        name: What `create` knows it by.
        stackable: Whether `torch.func.vmap` over stacked states equals the loop; not if it draws random numbers.
        unbounded: Groups of the state that answers follow beside statistics and what `regions` holds, such as
            remembered features.
        part: What it makes of the source data offline; None if nothing.
    """

    name: ClassVar[str]
    stackable: ClassVar[bool] = False
    unbounded: ClassVar[frozenset[str]] = frozenset()
    part: ClassVar[Part | None] = None

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def requires(self) -> frozenset[str]:
        """What the backbone ("grad", "batchnorm", "norm_affine") and its bundle ("reference.<part>") must have."""
        return frozenset()

    @property
    def batch_coupled(self) -> bool:
        """Whether one row's answer depends on the other rows, so that requests may not share a forward."""
        return False

    @property
    def synchronises(self) -> bool:
        """Whether the host waits for the device within a step."""
        return False

    @abstractmethod
    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the state that answers as the source model does; a full reset."""

    def begin(self, backbone: Backbone, state: State, x: Tensor) -> State:
        """Return what a fresh stream answers with after its first images and before its first step.

        Only normalisation statistics may differ from `state`, which stays as it was. The first step starts from
        `state` again.

        Args:
            backbone: The network.
            state: A fresh one.
            x: All images so far (N, C, H, W); any that is not finite moves nothing.
        """
        return state

    @abstractmethod
    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W); changes nothing."""

    @abstractmethod
    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Learn from `x` (N, C, H, W); returns a new state and leaves `state` as it was."""

    def regions(self, backbone: Backbone, initial: State) -> tuple[Region, ...]:
        """Return the parameters within a state that must stay near those of `initial`, a fresh one."""
        return ()

    def alone(self) -> "Adapter":
        """Return the adapter that answers from what a state has learnt and a batch alone, not from moving statistics.

        It is given states of this one, and tells from labelled images whether these still read.

        Raises:
            ValueError: If there is none; the message says why.
        """
        return self

    def prepare(self, backbone: Backbone, images: SourceImages) -> Tensors:
        """Return the tensors of `part`, computed from source images; none if the network has no use for them."""
        return {}


A = TypeVar("A", bound=type)

_REGISTRY: dict[str, Any] = {}
_REFERENCES: dict[str, str] = {}  # `package.module:Class` of adapters that were imported, to their names
_DISCOVERED: list[bool] = []


def register(cls: A) -> A:
    """Make the adapter class `cls` known to `create` under its `name`.

    Raises:
        ValueError: If another class has that name.
    """
    name: str = cls.name  # type: ignore[attr-defined]
    taken = _REGISTRY.get(name, cls)
    if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"adapter name '{name}' is taken by {taken.__module__}; give {cls.__module__} another")
    _REGISTRY[name] = cls
    return cls


def enlist(reference: str) -> str:
    """Import a user's own adapter class and make it known to `create`, under its name and under `reference`.

    Importing runs code, so a reference may come from a configuration or a command line, never from a request.

    Args:
        reference: `package.module:Class`; the folder in which the process was started is searched too.

    Returns:
        Its name.

    Raises:
        ValueError: If it cannot be imported, is no adapter, or has a name that is taken.
    """
    cls = import_object(reference, "adapter")
    if not (isinstance(cls, type) and issubclass(cls, Adapter) and dataclasses.is_dataclass(cls)):
        raise ValueError(f"adapter '{reference}' is not a frozen dataclass that derives from tta_server's Adapter")
    if not isinstance(getattr(cls, "name", None), str) or not _NAME.fullmatch(cls.name):
        raise ValueError(f"adapter '{reference}' needs a name of small letters, digits, '_' and '-'")
    if cls.__abstractmethods__:
        raise ValueError(f"adapter '{reference}' lacks {', '.join(sorted(cls.__abstractmethods__))}")
    register(cls)
    _REFERENCES[reference] = cls.name
    return cls.name


def names() -> tuple[str, ...]:
    """Return the names of all adapters, sorted."""
    return tuple(sorted(_known()))


def registered() -> tuple["Adapter", ...]:
    """Return every adapter with its default settings, in the order in which they were registered."""
    return tuple(cls() for cls in _known().values())


def create(name: str, /, **settings: Any) -> Adapter:  # noqa: ANN401
    """Return the adapter called `name`.

    Args:
        name: One of `names()`, or what `enlist` was given; nothing is imported here.
        settings: Its fields; the others keep their defaults.

    Raises:
        ValueError: If the name or a setting is unknown, a value is out of range, or an installed package offers
            what is no adapter.
    """
    registry = _known()
    known = _REFERENCES.get(name, name)
    if known not in registry:
        raise ValueError(f"unknown adapter '{name}'; use one of {', '.join(names())}")
    fields = {field.name: field for field in dataclasses.fields(registry[known])}
    unknown = sorted(settings.keys() - fields.keys())
    if unknown:
        has = f"it has {', '.join(fields)}" if fields else "it has none"
        raise ValueError(f"adapter '{name}' has no setting '{unknown[0]}'; {has}")
    adapter: Adapter = registry[known](**settings)
    return adapter


def _known() -> dict[str, Any]:
    """Return the registry, with what installed packages offer as entry points of the group `tta_server.adapters`."""
    if not _DISCOVERED:
        offered = [one.value for one in entry_points(group="tta_server.adapters")]
        _DISCOVERED.append(True)  # before they are imported: they may ask for adapters too
        try:
            for reference in offered:
                enlist(reference)
        except ValueError:
            _DISCOVERED.clear()
            raise
    return _REGISTRY


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
            f"{needs} the reference bundle of model '{backbone.spec.name}' does not have; make it with 'tta-server "
            "calibrate --data DIR', the model named there as it is here"
        )
    raise ValueError(
        f"{needs} backbone '{backbone.spec.name}' does not have; use one that needs less, such as "
        "'source' or 'lame', or another backbone"
    )


def group(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of `state` under `prefix/`, by the rest of their names."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in state.items() if name.startswith(f"{prefix}/")}


def ungroup(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    """Return `tensors` with `prefix/` put in front of their names."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def accept(old: State, new: State, selected: Tensor, *signals: Tensor) -> tuple[State, Tensor]:
    """Return `new` if something was selected and every number in it is finite, else `old`, bit for bit.

    The last gate of every adapter: no image, however broken, gets a non-finite number into a state, and none that
    requires a gradient gets that into it. It decides on
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
        name: torch.where(accepted.to(old[name].device), new[name].detach(), old[name]) if name in new else old[name]
        for name in old
    }
    return kept, accepted
