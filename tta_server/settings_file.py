"""Read the configuration: from a YAML file, the environment and the command line."""

import argparse
import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import SettingsError

from tta_server.settings import PREFIX, AdapterSettings, Settings
from tta_server.validation import explain
from tta_server.wanted import adopt_adapter, make_preprocess

_FILE_VARIABLE = "TTA_CONFIG"
_OTHER_VARIABLES = {_FILE_VARIABLE, "TTA_URL", "TTA_KEY"}  # the last two tell `tta-server streams` whom to ask
_MODEL_OPTIONS = (
    "arguments",
    "weights",
    "sha256",
    "labels",
    "classes",
    "head",
    "reference",
    "device",
    "dtype",
    "memory_format",
)
_RUNTIME = "runtime"


def add_model_options(parser: argparse.ArgumentParser, positional: bool = False, whole: bool = False) -> None:
    """Add the options that say which model is meant: the same for every command.

    Args:
        parser: Of the command.
        positional: Whether the architecture is the command's argument, in place of an option.
        whole: Whether the command reads all of the configuration.
    """
    add = parser.add_argument
    file = "YAML file with the configuration" if whole else "YAML file whose section 'model' counts"
    add("--config", type=Path, help=f"{file} (default: the one that TTA_CONFIG names)")
    sources = "'glyphs', a torchvision classifier, timm/NAME, hf/FOLDER, FILE.onnx/.pt/.pt2 or package.module:factory"
    if positional:
        add("model", nargs="?", help=f"architecture: {sources} (default: the configuration's)")
    else:
        add("--model", help=f"architecture: {sources} (default: the configuration's, else glyphs)")
    add("--arguments", type=_mapping, help="keyword arguments of a factory, such as '{depth: 18, width: 64}'")
    add("--weights", type=Path, help="local file with its weights")
    add("--sha256", help="expected digest of that file")
    add("--labels", type=Path, help="text file with its class names, one a line")
    add("--classes", type=int, help="number of classes, if not the architecture's own")
    add("--head", help="path of the layer that makes the logits (default: the one that is seen to)")
    add(
        "--reference",
        type=Path,
        help="its bundle, made by 'tta-server calibrate' (default: the one beside its weights)",
    )
    add("--device", help="cpu, cuda, cuda:1 or auto (default: auto)")
    add("--dtype", help="float32, bfloat16 or float16, but for normalisation layers (default: as the weights come)")
    add("--memory-format", help="contiguous, channels_last, or auto, the faster one (default: contiguous)")


def add_runtime_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that says what answers, to a command that has a model answer as a server does."""
    parser.add_argument(f"--{_RUNTIME}", help="torch, onnx, or auto, which goes by the bundle (default: auto)")


def _mapping(typed: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(typed)
    except (yaml.YAMLError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise argparse.ArgumentTypeError(f"'{typed}' is no mapping; write '{{name: value, name: value}}'")
    return found


def model_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was typed of these options, as the section `model` of overrides."""
    given = {name: getattr(options, name) for name in _MODEL_OPTIONS}
    given |= {"architecture": options.model, _RUNTIME: getattr(options, _RUNTIME, None)}
    return {name: value for name, value in given.items() if value is not None}


def load_settings(
    path: Path | None = None, overrides: dict[str, dict[str, Any]] | None = None, whole: bool = True
) -> Settings:
    """Read and validate the configuration.

    Args:
        path: YAML file; None takes the file that TTA_CONFIG names, or none.
        overrides: Sections with values that win over everything, as from a command line.
        whole: Whether the settings of the adapter and of the preprocessing are checked, too, which imports torch.

    Raises:
        ValueError: If a file is missing or malformed, or a key or value is wrong; one line a problem.
    """
    path = path or (Path(os.environ[_FILE_VARIABLE]) if os.environ.get(_FILE_VARIABLE) else None)
    if path and not path.is_file():
        raise ValueError(f"configuration file '{path}' does not exist")
    if path:
        _check_file(path)
    _refuse_unknown_variables()

    class FromFile(Settings, yaml_file=path, yaml_file_encoding="utf-8"):
        pass

    try:
        settings = FromFile(**(overrides or {}))  # type: ignore[arg-type]
    except ValidationError as error:
        raise ValueError("\n".join(explain(problem) for problem in error.errors())) from error
    except SettingsError as error:
        raise ValueError(f"configuration cannot be read: {error}") from error
    if not whole:
        return settings
    if settings.adapter != AdapterSettings():  # the default is right, and to check it would import torch
        adopt_adapter(settings.adapter)
    if settings.model.preprocess is not None:
        make_preprocess(settings.model.preprocess)
    return settings


def _check_file(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        twice = _twice(yaml.compose(text, yaml.SafeLoader))
    except RecursionError as error:
        raise ValueError(f"configuration file '{path}' cannot be read: it is nested too deep") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"configuration file '{path}' cannot be read: {' '.join(str(error).split())}") from error
    if twice:
        raise ValueError(f"configuration file '{path}' has {twice}")
    if content is not None and not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        sections = ", ".join(Settings.model_fields)
        raise ValueError(f"configuration file '{path}' must be a mapping with some of the keys {sections}")


def _twice(root: yaml.Node | None) -> str:
    """Return which key a mapping in a file has twice, of which YAML would lose the first; empty if none has."""
    left, seen = [root], set[int]()
    while left:
        node = left.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        lines: dict[str, int] = {}
        for each in node.value:
            left += each if isinstance(node, yaml.MappingNode) else [each]
            if isinstance(node, yaml.MappingNode) and isinstance(key := each[0], yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    return f"'{key.value}' twice, in lines {lines[key.value]} and {line}"
                lines[key.value] = line
    return ""


def _refuse_unknown_variables() -> None:
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    for name, value in os.environ.items():
        section = name.upper().partition("__")[0]
        # Kubernetes puts TTA_..._SERVICE_HOST and TTA_..._PORT there for a Service whose name starts with "tta".
        linked = re.search(r"_SERVICE_(HOST|PORT)|_PORT_\d", name) or (name.endswith("_PORT") and "://" in value)
        if name.upper().startswith(PREFIX) and name not in _OTHER_VARIABLES and section not in known and not linked:
            raise ValueError(f"unknown environment variable '{name}'; it should be {PREFIX}SECTION__KEY")
