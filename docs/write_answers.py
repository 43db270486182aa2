"""Write what the client knows of answers, from the OpenAPI document: `python -m docs.write_answers`, from the root.

The files are committed, so that the client needs neither the server nor pydantic; a test makes them again and compares.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tta_server.app import build
from tta_server.settings_file import load_settings

FOLDER = Path(__file__).parents[1] / "tta_server/client"
_PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_WRITTEN = "Written by docs/write_answers.py; the server's OpenAPI document says what each field means."

Schema = Mapping[str, Any]


def document() -> dict[str, Any]:
    """Return the OpenAPI document of a server with the embedded model."""
    return build(load_settings(None, {"model": {"device": "cpu"}})).app.openapi()


def answered(operation: Schema) -> Schema | None:
    """Return the schema of an operation's answer if that is JSON."""
    (good,) = (answer for status, answer in operation["responses"].items() if status.startswith("2"))
    found: Schema | None = good.get("content", {}).get("application/json", {}).get("schema")
    return found


def asked_by_the_client(described: Schema) -> dict[str, tuple[str, str, Schema]]:
    """Return method, path and description of each operation that the client has, by name.

    What is not its business: what the protocol's own clients ask of models, and what probes and Prometheus ask.
    """
    return {
        about["operationId"]: (verb.upper(), path, about)
        for path, verbs in described["paths"].items()
        for verb, about in verbs.items()
        if not ((verb == "get" and path.startswith("/v2")) or path == "/metrics" or re.search("{(version|repo)", path))
    }


def written(described: Schema) -> dict[str, str]:
    """Return the files by name: what is about drift alone, and the rest."""
    calls = [about for _, _, about in asked_by_the_client(described).values()]
    rest = _reached(described, [each for each in calls if each["tags"] != ["drift"]])
    drift = [name for name in _reached(described, calls) if name not in rest]
    shared = {each for name in drift for each in _named(described["components"]["schemas"][name])} & set(rest)
    return {
        "answers.py": _file("What the server answers, as JSON.", described, rest),
        "drift_answers.py": _file(
            "What the server answers when it is asked about drift, as JSON.", described, drift, shared
        ),
    }


def type_of(schema: Schema) -> str:
    """Return the type that a schema describes, as Python writes it."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(map(type_of, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return f"Literal[{', '.join(map(repr, schema.get('enum', [schema.get('const')])))}]"
    if schema["type"] == "array":
        return f"list[{type_of(schema['items'])}]"
    if schema["type"] == "object":
        values = schema["additionalProperties"]
        key = type_of({"type": "string"} | schema.get("propertyNames", {}))
        return f"dict[{key}, {'Any' if values is True else type_of(values)}]"
    return _PLAIN[schema["type"]]


def _named(schema: Any) -> Iterator[str]:  # noqa: ANN401 (JSON)
    """Yield the names of the schemas that one mentions."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield type_of(schema)
        for each in schema.values():
            yield from _named(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _named(each)


def _reached(described: Schema, operations: list[Schema]) -> list[str]:
    """Return the names of the schemas that answers hold; each comes after those that it mentions."""
    schemas, found = described["components"]["schemas"], dict[str, None]()

    def reach(schema: Schema | None) -> None:
        for name in _named(schema):
            if name not in found:
                reach(schemas[name])
                found[name] = None

    for each in operations:
        reach(answered(each))
    return list(found)


def _file(says: str, described: Schema, names: list[str], imported: set[str] = frozenset()) -> str:
    text = "\n\n".join(_type(name, described["components"]["schemas"][name]) for name in names)
    typing = [word for word in ("Any", "Literal", "NotRequired") if re.search(rf"\b{word}\b", text)]
    head = [f'"""{says}', "", _WRITTEN, '"""', "", f"from typing import {', '.join([*typing, 'TypedDict'])}", ""]
    head += [f"from tta_server.client.answers import {', '.join(sorted(imported))}", ""] if imported else []
    return _formatted("\n".join([*head, text]))


def _type(name: str, schema: Schema) -> str:
    fields = [
        f"    {key}: {type_of(each) if key in schema.get('required', ()) else f'NotRequired[{type_of(each)}]'}"
        for key, each in schema["properties"].items()
    ]
    first, _, _ = " ".join(schema["description"].split()).partition(". ")
    return "\n".join([f"class {name}(TypedDict):", f'    """{first.rstrip(".")}."""', "", *fields, ""])


def _formatted(text: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(FOLDER / "answers.py"), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout  # noqa: S603 (ruff)


if __name__ == "__main__":
    for name, text in written(document()).items():
        (FOLDER / name).write_text(text)
