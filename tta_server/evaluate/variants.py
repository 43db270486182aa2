"""Which adapters, with which settings, from what was typed."""

import dataclasses
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tta_server import adapters
from tta_server.evaluate.datasets import digest
from tta_server.evaluate.results import SOURCE
from tta_server.settings import AdapterSettings
from tta_server.wanted import adopt_adapter

# A comma outside of brackets, so that a value may be a list.
_COMMA = re.compile(r",(?![^\[(]*[\])])")


class Variant(NamedTuple):
    """A row of the tables.

    Attributes:
        label: Name of the adapter, with the settings that were given.
        adapter: The method.
    """

    label: str
    adapter: adapters.Adapter

    def key(self) -> dict[str, Any]:
        """Return all that decides what it does: every setting, defaults too, and the code, a user's own included."""
        fields = {field.name: getattr(self.adapter, field.name) for field in dataclasses.fields(self.adapter)}  # type: ignore[arg-type]
        plain = {name: None if callable(value) else value for name, value in fields.items()}
        return {"adapter": self.adapter.name, "settings": repr(plain), "code": _code(), "own": _own_code(self.adapter)}


def variants(names: str, settings: Sequence[str]) -> list[Variant]:
    """Return the frozen model and what was asked for, in order.

    Args:
        names: Adapters, separated by commas, or "all"; a user's own is `package.module:Class`.
        settings: Texts such as "tent:lr=0.005,stats=batch"; each is a row of its own, "tent:" is one with defaults.
            An adapter of `names` also has a row with defaults, before the others if "tent:" gives it no place.

    Raises:
        ValueError: If a name, a setting or a value is wrong.
    """
    named = list(adapters.names()) if names == "all" else [name.strip() for name in names.split(",") if name.strip()]
    given = [_split(text) for text in settings]
    rows: dict[str, Variant] = {}
    for name in dict.fromkeys([SOURCE, *named, *(name for name, _ in given)]):
        own = [rest for other, rest in given if other == name]
        for rest in own if "" in own or name not in (SOURCE, *named) else ["", *own]:
            adapter = adopt_adapter(AdapterSettings(name=name, settings=_values(name, rest)))
            label = f"{name} {rest}".strip()
            rows[label] = Variant(label, adapter)
    return list(rows.values())


def _split(text: str) -> tuple[str, str]:
    """Return the name, which may be `package.module:Class`, and the settings."""
    head, equals, value = text.partition("=")
    name, colon, key = head.rpartition(":")
    return (name.strip(), f"{key}{equals}{value}") if colon else (text.strip(), "")


def _values(name: str, text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in _COMMA.split(text) if text else []:
        key, equals, value = part.partition("=")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not key.strip():
            raise ValueError(f"settings '{name}:{text}' are not understood; write '{name}:lr=0.005,stats=batch'")
    return values


def _code() -> str:
    files = sorted(Path(adapters.__file__).parent.glob("*.py"))
    return digest(*(file.read_bytes() for file in files))


def _own_code(adapter: adapters.Adapter) -> str:
    file = inspect.getsourcefile(type(adapter))
    return digest(Path(file).read_bytes()) if file else ""
