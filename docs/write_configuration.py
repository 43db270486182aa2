"""Write the tables of the configuration page: `python -m docs.write_configuration`, from the root of the repository.

The page is committed, so that it can be read as it is; a test makes it again and compares.
"""

import dataclasses
import inspect
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from tta_server import adapters
from tta_server.models import Preprocess
from tta_server.settings import Settings, StreamSettings

PAGE = Path(__file__).with_name("configuration.md")
MARK = "<!-- What follows is written by docs/write_configuration.py. -->\n"

_WORDS = {
    str: "text",
    SecretStr: "text",
    Path: "path",
    int: "integer",
    float: "number",
    bool: "yes or no",
    dict: "mapping",
    list: "list",
}
_SIGNS = {Ge: ">=", Gt: ">", Le: "<=", Lt: "<"}
_UNITS = {2**30: "GiB", 2**20: "MiB"}

_Row = tuple[str, str, str, str]


def page(hand_written: str) -> str:
    """Return the page: what is written by hand, up to the mark, and after it a table of each section's settings."""
    sections = [_section(name, type(field.default)) for name, field in Settings.model_fields.items()]
    own = _section("streams.named.NAME", StreamSettings)
    preprocess = (
        "## `model.preprocess`\n\nIt stands in place of all that the architecture has: what is left out is as here.\n\n"
        f"{_table(_fields(Preprocess))}"
    )
    heading = (
        "## Settings of each adapter\n\n"
        "What `adapter.settings` may hold; `PATCH /v1/streams/{name}` takes the same for one stream.\n"
    )
    return "\n".join(
        [hand_written.partition(MARK)[0] + MARK, *sections, own, preprocess, heading, *map(_adapter, _our_adapters())]
    )


def _section(name: str, model: type[BaseModel]) -> str:
    rows = [
        _row(key, field.annotation, field.metadata, _default(field), field.description or "")
        for key, field in model.model_fields.items()
    ]
    return f"## `{name}`\n\n{_first_sentence(model)}\n\n{_table(rows)}"


def _adapter(cls: type) -> str:
    rows = _fields(cls)
    said = f"### `{adapters.create(cls.name).name}`\n\n{_first_sentence(cls)}\n"  # type: ignore[attr-defined]
    return f"{said}\n{_table(rows)}" if rows else f"{said}\nIt has no settings.\n"


def _our_adapters() -> list[type]:
    made = [type(adapters.create(name)) for name in adapters.names()]
    return [cls for cls in made if cls.__module__.startswith("tta_server.adapters.")]


def _fields(cls: type) -> list[_Row]:
    """Return the rows of a dataclass's fields, but for functions: a file cannot hold one."""
    said: dict[str, str] = {}
    for each in reversed(cls.__mro__):  # what methods share is said once, by what they derive from
        said |= _attributes(inspect.cleandoc(each.__doc__ or ""))
    hints = get_type_hints(cls, include_extras=True)
    return [
        _row(field.name, hints[field.name], (), field.default, said.get(field.name, ""))
        for field in dataclasses.fields(cls)
        if not callable(field.default)
    ]


def _row(name: str, annotation: object, metadata: Iterable[Any], default: object, meaning: str) -> _Row:
    takes = ", ".join([_kind(annotation), *_bounds(metadata), *map(str, getattr(annotation, "__metadata__", ()))])
    return f"`{name}`", takes, _shown(default, name), meaning


def _table(rows: Iterable[_Row]) -> str:
    lines = [("setting", "what it takes", "default", "meaning"), ("---",) * 4, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _kind(annotation: object) -> str:
    """Return a type in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(each) for each in parts if each is not type(None))
    if origin in (tuple, list, Sequence):
        return "list of " + {int: "integers", float: "numbers", str: "texts"}[parts[0]]
    return _WORDS[origin or annotation]  # type: ignore[index]


def _bounds(metadata: Iterable[Any]) -> Iterator[str]:
    for each in metadata:
        for kind, sign in _SIGNS.items():
            if isinstance(each, kind):
                yield f"{sign} {_number(getattr(each, kind.__name__.lower()))}"


def _default(field: FieldInfo) -> object:
    return field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]


def _shown(value: object, name: str) -> str:
    if value is dataclasses.MISSING:
        return "must be given"
    if value is None or value in ("", (), {}) or isinstance(value, SecretStr):
        return "empty"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        units = [
            f" ({value // size} {unit})" for size, unit in _UNITS.items() if name.endswith("bytes") and value >= size
        ]
        return _number(value) + "".join(units[:1])
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _attributes(text: str) -> dict[str, str]:
    """Return what a docstring says of each attribute."""
    block = text.partition("Attributes:\n")[2].partition("\n\n")[0]
    lines = re.sub(r"\n\s{8,}", " ", block).splitlines()
    return {name: meaning for name, _, meaning in (line.strip().partition(": ") for line in lines)}


def _first_sentence(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
