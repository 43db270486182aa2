"""`tta-server inspect`: try a model, and say how it is read, what is shared and which adapters it can have."""

import argparse
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from tta_server.adapters import Adapter, registered
from tta_server.adapters.base import check
from tta_server.app import load_model, with_answers
from tta_server.guard.lacking import told
from tta_server.models import Model
from tta_server.models.backbone import random_images
from tta_server.models.reason import reason
from tta_server.models.reference import beside
from tta_server.models.sources import own_file
from tta_server.runtime.needs import step_bytes
from tta_server.settings import AdapterSettings, Settings
from tta_server.settings_file import add_model_options, add_runtime_option, load_settings, model_overrides
from tta_server.settings_models import ModelSettings
from tta_server.wanted import make_adapter

_ROWS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_model_options(parser, positional=True)
    add_runtime_option(parser)


def run(options: argparse.Namespace) -> int:
    """Load the model, try it and print what was found; returns 0.

    Raises:
        ValueError: If it cannot be served as the settings ask; the message says why and what would help. Where that is
            ONNX Runtime's, what was found is printed first.
    """
    settings = load_settings(options.config, {"model": model_overrides(options)})
    model = load_model(settings.model)
    found = inspect(model) | {"bundle": bundle(model, settings)}
    try:
        found["runtime"] = runtime(model, settings.model)
    except ValueError as error:
        _print(found | {"runtime": "not onnx"})
        raise ValueError(f"model.runtime is '{settings.model.runtime}': {error}") from error
    _print(found)
    return 0


def _print(found: Mapping[str, str]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for subject, said in found.items():
        table.add_row(subject, said)
    Console(highlight=False).print(table, markup=False)


def inspect(model: Model) -> dict[str, str]:
    """Return what is found of a model, by subject.

    Raises:
        ValueError: If it cannot even be tried.
    """
    spec = model.backbone.spec
    try:
        remarks = model.backbone.findings.remarks
    except Exception as error:  # a network may be anything
        raise ValueError(f"model '{spec.name}' cannot be tried: {reason(error)}") from error
    tried = {adapter.name: attempt(adapter, model) for adapter in registered()}
    fit = [name for name, why in tried.items() if not why]
    return {
        "model": f"{spec.name}, {spec.classes} classes, images {'x'.join(map(str, spec.input_shape))}",
        "weights": f"sha256 {spec.digest[:16]}",
        "memory": model.memory,
        **remarks,
        "adapters": ", ".join(fit) or "none",
        **_step(model, make_adapter(AdapterSettings()), tried),
        **{f"not {name}": why for name, why in tried.items() if why},
    }


def _step(model: Model, usual: Adapter, tried: Mapping[str, str]) -> dict[str, str]:
    """Return what memory a step of the usual adapter takes, if it can be had."""
    if tried[usual.name]:
        return {}
    try:
        each = step_bytes(usual, model.backbone, usual.init(model.backbone, model.reference)) / 2**20
    except Exception as error:  # a network may be anything
        return {"a step": f"is not known to keep anything: {reason(error)}"}
    return {"a step": f"of '{usual.name}' keeps {each:.2g} MiB of each image of its window, engine.window_rows"}


def bundle(model: Model, settings: Settings) -> str:
    """Return what the reference bundle was made of, or where it would lie; and what it lacks, with what that costs."""
    weights = settings.model.weights or own_file(settings.model.architecture)
    where = str(beside(weights)) if weights else ""
    return told(model.reference, model.backbone.spec, [make_adapter(settings.adapter)], where)


def runtime(model: Model, settings: ModelSettings) -> str:
    """Return what would answer for a model, as the settings ask, and why.

    Raises:
        ValueError: If they ask for ONNX Runtime, which cannot.
    """
    chosen = with_answers(model, settings).answers
    return chosen.remark if chosen else "torch"


def attempt(adapter: Adapter, model: Model) -> str:
    """Have an adapter learn from two images and answer; returns why it cannot, or an empty string."""
    try:
        backbone = model.backbone.twin()  # of its own: some networks keep what is given to them
        check(adapter, backbone, model.reference)
        state = adapter.init(backbone, model.reference)
        x = random_images(backbone, _ROWS)
        for _ in range(2):
            state = adapter.adapt(backbone, state, x).state
        adapter.predict(backbone, state, x)
    except Exception as error:  # whatever a network and a method make of each other
        return " ".join(str(error).split()) or type(error).__name__
    return ""
