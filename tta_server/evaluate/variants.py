"""Which adapters, with which settings, from what was typed."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tta_server import adapters
from tta_server.evaluate.datasets import digest
from tta_server.evaluate.results import SOURCE
from tta_server.settings import AdapterSettings, adopt_adapter

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
        """Return all that decides what it does: every setting, defaults too, and the code of the adapters."""
        fields = {field.name: getattr(self.adapter, field.name) for field in dataclasses.fields(self.adapter)}  # type: ignore[arg-type]
        plain = {name: None if callable(value) else value for name, value in fields.items()}
        return {"adapter": self.adapter.name, "settings": repr(plain), "code": _code()}


def variants(names: str, settings: Sequence[str]) -> list[Variant]:
    """Return the frozen model and what was asked for, in order.

    Args:
        names: Adapters, separated by commas, or "all"; a user's own is `package.module:Class`.
        settings: Texts such as "tent:lr=0.005,stats=batch"; each is a row of its own, "tent:" is one with defaults.
            An adapter of `names` without any gets one row with defaults; one with some gets those.

    Raises:
        ValueError: If a name, a setting or a value is wrong.
    """
    wanted = list(adapters.names()) if names == "all" else [name.strip() for name in names.split(",") if name.strip()]
    given = [(name, rest) for name, _, rest in (text.partition(":") for text in settings)]
    wanted += [name for name, _ in given]
    rows: dict[str, Variant] = {}
    for name in dict.fromkeys([SOURCE, *wanted]):
        for rest in [rest for own, rest in given if own == name] or [""]:
            adapter = adopt_adapter(AdapterSettings(name=name, settings=_values(name, rest)))
            label = f"{name} {rest}".strip()
            rows[label] = Variant(label, adapter)
    return list(rows.values())


def _values(name: str, text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in _COMMA.split(text) if text else []:
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"settings '{name}:{text}' are not understood; write '{name}:lr=0.005,stats=batch'")
        values[key.strip()] = yaml.safe_load(value)
    return values


def _code() -> str:
    files = sorted(Path(adapters.__file__).parent.glob("*.py"))
    return digest(*(file.read_bytes() for file in files))
