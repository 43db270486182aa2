"""Say what is wrong with a configuration in words that its author understands."""

import dataclasses
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

T = TypeVar("T")


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
    try:
        # YAML reads 1e-3 as text and the environment is all text: pydantic converts to what the dataclass declares.
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise ValueError("\n".join(f"{owner}: {explain(problem)}" for problem in error.errors())) from error


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
    return f"{key}: {message}, got {problem['input']!r}"
