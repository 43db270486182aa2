"""What a network writes into itself while it answers, and how it is put back: no forward leaves anything for another.

Where it keeps that differs: in buffers, in parameters, and in plain attributes of its layers, which torch knows not of.
"""

import copy
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from tta_server.models.backbone import Tensors
from tta_server.models.ties import Ties

log = logging.getLogger(__name__)

_VALUES = (Tensor, type(None), bool, int, float, complex, str)
_CONTAINERS = (tuple, list, deque, dict, OrderedDict)
_MISSING: Final = object()  # of an attribute that was not there
_DEEPEST = 3  # containers within containers


class OwnStateError(ValueError):
    """A network answers by what it was asked before, and it cannot be put back."""


class Attribute(NamedTuple):
    """Where a layer holds something that torch knows not of.

    Attributes:
        path: Of the layer.
        name: Of the attribute.
    """

    path: str
    name: str

    def __str__(self) -> str:
        """Return it as a network's own code has it."""
        return f"{self.path}.{self.name}".removeprefix(".")


class _Held(NamedTuple):
    """A buffer or parameter of a layer, as it was."""

    path: str
    among: dict[str, Tensor | None]
    name: str
    tensor: Tensor | None
    version: int
    was: Tensor | None

    def moved(self) -> bool:
        now = self.among.get(self.name)
        return now is not self.tensor or not _alike(now, self.was)

    def put_back(self) -> None:
        if self.tensor is not None and self.was is not None:
            self.tensor.data.copy_(self.was)  # in place: another copy of the network may share it
        self.among[self.name] = self.tensor


class Taken(NamedTuple):
    """A network at one moment, copied.

    Attributes:
        tensors: Its buffers and parameters.
        attributes: What else its layers hold.
    """

    tensors: list[_Held]
    attributes: dict[Attribute, Any]


def take(module: nn.Module) -> Taken:
    """Return copies of all that a network may write."""
    return Taken([*_held(module, "_buffers"), *_held(module, "_parameters")], _attributes(module))


def put_back(module: nn.Module, before: Taken) -> tuple[dict[str, Tensor], dict[Attribute, Any]]:
    """Have a network hold what it held, and return of what it has written since what it was."""
    moved = [one for one in before.tensors if one.moved()]
    for one in moved:
        one.put_back()
    written = {place: before.attributes.get(place, _MISSING) for place in _written(before.attributes, module)}
    for place, value in written.items():
        _set(module, place, value)
    return {one.path: one.was for one in moved if one.was is not None}, written


class OwnState:
    """What a frozen network has been seen to write; what else it writes into buffers is noticed when it does."""

    def __init__(self, module: nn.Module) -> None:
        """Look at a frozen network, of which nothing is known."""
        self._module = module
        self._tensors: dict[str, Tensor] = {}
        self._attributes: dict[Attribute, Any] = {}
        self._watch()

    def of(self, module: nn.Module) -> "OwnState":
        """Return what is known, for another copy of the network that has the same tensors."""
        other = copy.copy(self)
        other._module = module
        other._watch()
        return other

    def begun(self, overrides: Tensors, ties: Ties) -> dict[str, Tensor]:
        """Return overrides, with what a forward may write in place of them or of frozen buffers and parameters.

        All by the names that stand for a tensor's others. Another copy of the network, which shares what is known, may
        add to that meanwhile.
        """
        overrides = ties.named(overrides)
        written = {ties.first(name): was for name, was in [*self._tensors.items()]}
        return {**overrides, **{name: overrides.get(name, was).clone() for name, was in written.items()}}

    def end(self) -> None:
        """Put back, after a forward, what it has left in attributes and in buffers."""
        for place, value in [*self._attributes.items()]:
            _set(self._module, place, value)
        moved = [
            one
            for one in self._buffers
            if one.among.get(one.name) is not one.tensor
            or (one.tensor is not None and one.tensor._version != one.version)
        ]
        if moved:
            self._restore(moved)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Learn what is written by the forwards within, which leave nothing behind."""
        before = take(self._module)
        try:
            yield
        finally:
            tensors, attributes = put_back(self._module, before)
            self._tensors |= tensors
            self._attributes |= attributes
            self._watch()

    def settle(self, run: Callable[[Tensor], Any], images: Tensor) -> None:
        """Let a network fill attributes that depend on no image, such as weights that it computes from others.

        Args:
            run: Runs it on images; the answer is not looked at.
            images: Some.
        """
        start, other = take(self._module), images.flip(0) / 2
        run(images)
        first = _attributes(self._module)
        put_back(self._module, start)
        run(other)
        second = _attributes(self._module)
        run(other)
        third = _attributes(self._module)
        for place in _written(start.attributes, self._module):
            made = [taken.get(place, _MISSING) for taken in (first, second, third)]
            if _alike(made[0], made[1]) and _alike(made[1], made[2]):
                start.attributes[place] = made[2]
        put_back(self._module, start)

    def seen(self) -> Iterator[tuple[str, str]]:
        """Give what is written, by kind: names of buffers (and parameters), and of attributes."""
        for kind, names in ("buffers", [*self._tensors]), ("attributes", [*map(str, self._attributes)]):
            if names:
                yield kind, ", ".join(sorted(names))

    def _watch(self) -> None:
        """Watch the buffers; parameters are too large to keep twice."""
        held = _held(self._module, "_buffers")
        self._buffers = [one for one in held if one.tensor is None or not one.tensor.is_inference()]

    def _restore(self, moved: Sequence[_Held]) -> None:
        for one in moved:
            one.put_back()
            if one.was is not None and one.path not in self._tensors:
                log.warning(
                    "buffer '%s' was written in a forward, as in none before: each begins with the frozen one", one.path
                )
                self._tensors[one.path] = one.was
        self._buffers = [one._replace(version=_version(one.tensor)) for one in self._buffers]


def _held(module: nn.Module, kind: Literal["_buffers", "_parameters"]) -> list[_Held]:
    return [
        _Held(str(Attribute(path, name)), among, name, tensor, _version(tensor), _copied(tensor))
        for path, layer in module.named_modules()
        for among in [getattr(layer, kind)]
        for name, tensor in among.items()
    ]


def _version(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def _attributes(module: nn.Module) -> dict[Attribute, Any]:
    """Return copies of what layers hold beside buffers, parameters and other layers."""
    of_torch = vars(nn.Module()).keys()
    return {
        Attribute(path, name): _copied(value)
        for path, layer in module.named_modules()
        for name, value in vars(layer).items()
        if name not in of_torch
    }


def _written(before: Mapping[Attribute, Any], module: nn.Module) -> list[Attribute]:
    """Return the attributes whose value is another one, where both may be state.

    What else a network holds, such as a session that it opens, is left alone.
    """
    now = _attributes(module)
    pairs = ((place, before.get(place, _MISSING), now.get(place, _MISSING)) for place in {**before, **now})
    return [place for place, was, value in pairs if _is_state(was) and _is_state(value) and not _alike(was, value)]


def _set(module: nn.Module, place: Attribute, value: Any) -> None:  # noqa: ANN401
    held = vars(module.get_submodule(place.path))
    if value is _MISSING:
        held.pop(place.name, None)
    else:
        held[place.name] = _copied(value)


def _is_state(value: Any, depth: int = 0) -> bool:  # noqa: ANN401
    if value is _MISSING or isinstance(value, _VALUES):
        return True
    if depth == _DEEPEST or type(value) not in _CONTAINERS:
        return False
    return all(_is_state(each, depth + 1) for each in (value.values() if isinstance(value, dict) else value))


def _copied(value: Any, depth: int = 0) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.detach().clone()
    if depth == _DEEPEST or type(value) not in _CONTAINERS:
        return value
    if isinstance(value, tuple):
        return tuple(_copied(each, depth + 1) for each in value)
    other = copy.copy(value)
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        other[key] = _copied(each, depth + 1)
    return other


def _alike(left: Any, right: Any) -> bool:  # noqa: ANN401
    if left is right:
        return True
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        if left.shape != right.shape or left.dtype != right.dtype:
            return False
        return torch.equal(left, right) or bool(((left == right) | ((left != left) & (right != right))).all())
    if type(left) is not type(right) or isinstance(left, Tensor):
        return False
    if type(left) in _CONTAINERS:
        if len(left) != len(right):
            return False
        if isinstance(left, dict):
            return left.keys() == right.keys() and all(_alike(left[key], right[key]) for key in left)
        return all(map(_alike, left, right))
    return bool(left == right or (left != left and right != right))
