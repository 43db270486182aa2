"""Say what is wrong with a configuration in words that its author understands."""

import dataclasses
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

T = TypeVar("T")

_ONE: Final = {int: "an integer", float: "a number", str: "text", bool: "yes or no"}
_SEVERAL: Final = {int: "integers", float: "numbers", str: "texts", bool: "yes or no"}
_WORDS: Final = {
    "path_type": "expected a path",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "list_type": "expected a list",
}
_UNIONS: Final = (Union, types.UnionType)


def fill(cls: type[T], values: dict[str, Any], owner: str) -> T:
    """Return a dataclass made of `values`, each converted to the type that its field declares.

    Args:
        cls: The dataclass.
        values: Some of its fields.
        owner: What a message calls it.

    Raises:
        ValueError: If there is no such field, or a value is wrong; one line a problem.
    """
    fields = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(values.keys() - set(fields))
    if unknown:
        raise ValueError(f"{owner} has no setting '{unknown[0]}'; it has {', '.join(fields) or 'none'}")
    hints = get_type_hints(cls)
    truths = [name for name, value in values.items() if isinstance(value, bool) and is_number(hints[name])]
    if truths:
        raise ValueError("\n".join(f"{owner}: {name}: expected a number, got {values[name]}" for name in truths))
    try:
        # YAML reads 1e-3 as text and the environment is all text: pydantic converts to what the dataclass declares.
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        told = _explained(error.errors(), values, hints)
        raise ValueError("\n".join(f"{owner}: {line}" for line in told)) from error


def _explained(problems: Iterable[ErrorDetails], values: dict[str, Any], hints: dict[str, Any]) -> Iterator[str]:
    """Yield one line for each field: of a list, and of what may be this or that, pydantic tells of every part."""
    done = set()
    for problem in problems:
        field = str(problem["loc"][0]) if problem["loc"] else ""
        expected = _expected(hints[field]) if field in values and get_origin(hints[field]) is not Literal else ""
        if not expected or not _is_of_type(problem["type"]):
            yield explain(problem)
        elif field not in done:
            done.add(field)
            yield f"{field}: expected {expected}, got {values[field]!r}"


def is_number(hint: Any) -> bool:  # noqa: ANN401
    """Return whether a field takes numbers, and neither yes nor no."""
    kinds = {hint, *get_args(hint)}
    return bool(kinds & {int, float}) and bool not in kinds and get_origin(hint) in (None, *_UNIONS)


def _is_of_type(problem: str) -> bool:
    """Return whether a problem is the kind of a value, not its size."""
    return problem.endswith(("_type", "_parsing", "_from_float", "too_short", "too_long", "missing", "is_instance_of"))


def _expected(hint: Any) -> str:  # noqa: ANN401
    """Return in words what a field takes; empty if there are none for it."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in _UNIONS:
        words = [_expected(part) for part in parts if part is not types.NoneType]
        return " or ".join(words) if all(words) else ""
    if kind is Literal:
        return ", ".join(map(str, parts))
    if kind in (tuple, list, Sequence) and parts and parts[0] in _SEVERAL and set(parts) <= {parts[0], ...}:
        count = f"{len(parts)} " if kind is tuple and ... not in parts else ""
        return f"a list of {count}{_SEVERAL[parts[0]]}"
    return _ONE.get(hint, "")


def explain(problem: ErrorDetails) -> str:
    """Return what pydantic found wrong as one sentence for the person who wrote the configuration."""
    if problem["type"] == "extra_forbidden":
        key = ".".join(map(str, problem["loc"]))
        return f"unknown configuration key '{key}'; 'tta-server config' prints the known ones"
    # What pydantic calls the members of a union, and keys, is of no use to a reader: it holds brackets.
    key = ".".join(str(part) for part in problem["loc"] if "[" not in str(part))
    message = problem["msg"].removeprefix("Value error, ")
    if not key or problem["type"] in ("missing", "value_error"):  # these say themselves what was got
        return f"{key}: {message}" if key else message
    message = _WORDS.get(problem["type"], message)
    quotes = problem["type"] == "string_type" and isinstance(problem["input"], int | float)
    got = "nothing" if problem["input"] is None else repr(problem["input"])
    return f"{key}: {message}, got {got}{'; put it in quotes' if quotes else ''}"
