"""What values the settings of an adapter may have: every number has a least and a most, checked in one place.

A setting of one stream may neither stop the server nor fill its memory, so a bound says too why no more is allowed.
"""

import dataclasses
import math
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Within:
    """The bounds of a number, or of each number of a tuple; part of its annotation.

    Attributes:
        least: The least value.
        most: The largest value, finite.
        above: Whether the value must be above `least`, not equal to it.
        below: Whether it must be below `most`.
        why: Why no more, for whoever asked for it.
    """

    least: float
    most: float
    above: bool = False
    below: bool = False
    why: str = ""

    def __str__(self) -> str:
        least, most = f"{self.least:.12g}", f"{self.most:.12g}"
        if self.most <= 1:
            return f"in {'(' if self.above else '['}{least}, {most}{')' if self.below else ']'}"
        return f"{'>' if self.above else '>='} {least} and {'<' if self.below else '<='} {most}"

    def holds(self, value: Any) -> bool:  # noqa: ANN401
        """Return whether `value`, a number, is within the bounds; nan is not."""
        enough = value > self.least if self.above else value >= self.least
        return bool(enough and (value < self.most if self.below else value <= self.most))


LearningRate = Annotated[float, Within(0, 10, above=True, why="steps that large leave every network")]
Momentum = Annotated[float, Within(0, 1, below=True)]
Betas = Annotated[tuple[float, float], Within(0, 1, below=True)]
Share = Annotated[float, Within(0, 1)]
PositiveShare = Annotated[float, Within(0, 1, above=True)]
OptionalShare = Annotated[float | None, Within(0, 1, above=True)]
Weight = Annotated[float, Within(0, 1e6, why="nothing else would count")]
Views = Annotated[int, Within(1, 64, why="each is a forward of the whole window")]
Rank = Annotated[int, Within(1, 256, why="more is no low rank of anything")]
Seed = Annotated[int, Within(0, 2**32 - 1, why="steps are counted from it")]

MAX_STREAM_BYTES = 256 * 2**20
"""Most memory of the images or features that one stream remembers."""


def check_settings(adapter: object) -> None:
    """Refuse values that the annotations of a dataclass's fields do not allow.

    Raises:
        ValueError: If a number is out of its bounds, a text is none of those known, or a value is of another kind.
    """
    cls: Any = type(adapter)
    for name, hint in hints(cls).items():
        _check(name, getattr(adapter, name), hint)


@cache
def hints(cls: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the annotation of each field of a dataclass, bounds included."""
    every = get_type_hints(cls, include_extras=True)
    return {field.name: every[field.name] for field in dataclasses.fields(cls)}


def bounds(hint: Any) -> tuple[Any, Within | None]:  # noqa: ANN401
    """Return what kind of value an annotation asks for, and within which bounds."""
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return kind, next((extra for extra in extras if isinstance(extra, Within)), None)


def check_bytes(what: str, *tensors: Tensor) -> None:
    """Refuse what a stream would keep if it is too much; ask with tensors on the device "meta", which take nothing.

    Raises:
        ValueError: If the tensors take more than `MAX_STREAM_BYTES`.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > MAX_STREAM_BYTES:
        raise ValueError(
            f"{what} would take {size / 2**20:.0f} MiB of each stream, at most {MAX_STREAM_BYTES / 2**20:.0f}; lower it"
        )


def _check(name: str, value: Any, hint: Any) -> None:  # noqa: ANN401
    kind, within = bounds(hint)
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return
    kind = next(one for one in kinds if one is not NoneType)
    expected = _expected(kind, within)
    if expected and not _fits(value, kind, within):
        why = f": {within.why}" if within and within.why else ""
        raise ValueError(f"{name} must be {expected}, got {value!r}{why}")


def _expected(kind: Any, within: Within | None) -> str:  # noqa: ANN401
    """Return what a message says that a value of this kind must be; empty for kinds that are not checked."""
    if get_origin(kind) is Literal:
        *others, last = [repr(option) for option in get_args(kind)]
        return f"{', '.join(others)} or {last}" if others else last
    bounded = f" {within}" if within else ""
    if get_origin(kind) is tuple:
        count = "a tuple of" if Ellipsis in get_args(kind) else "two" if len(get_args(kind)) == 2 else "as many"
        return f"{count} {'texts' if str in get_args(kind) else f'numbers{bounded}'}"
    if kind is float:
        return bounded.strip() or "a finite number"
    return {bool: "true or false", int: f"{within} and whole" if within else "a whole number", str: "a text"}.get(
        kind, ""
    )


def _fits(value: Any, kind: Any, within: Within | None) -> bool:  # noqa: ANN401
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        parts = (parts[0],) * len(value) if Ellipsis in parts and isinstance(value, tuple) else parts
        return (
            isinstance(value, tuple)
            and len(value) == len(parts)
            and all(_fits(one, part, within) for one, part in zip(value, parts, strict=True))
        )
    if kind in (int, float):
        whole = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return whole and (within.holds(value) if within else math.isfinite(value))
    return isinstance(value, kind) if kind in (bool, str) else True
