"""`tta-server replay`: rebuild a stream's state from the audit log, and show that it is what the server had."""

import argparse
from collections.abc import Set
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load

from tta_server.adapters import Adapter, State
from tta_server.adapters.checkpoint import dump_state, load_state, state_digest
from tta_server.app import load_model, use_threads
from tta_server.guard.trust import Trust
from tta_server.models import Backbone, Model
from tta_server.runtime.assemble import network
from tta_server.runtime.device import on_device
from tta_server.settings import AdapterSettings, Settings
from tta_server.settings_file import load_settings
from tta_server.storage.audit import Audit, Entry
from tta_server.storage.replay import Recipe, replay
from tta_server.storage.store import Store
from tta_server.streams.names import number_of
from tta_server.wanted import make_adapter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--config", type=Path, help="YAML file of the server (default: the one that TTA_CONFIG names)")
    parser.add_argument("--stream", required=True, help="which stream")
    parser.add_argument("--version", type=int, help="version to stop at (default: the newest)")
    parser.add_argument("--out", type=Path, help="write the state to this file, to be imported")


def run(options: argparse.Namespace) -> int:
    """Replay and print the digest; returns 0.

    Raises:
        ValueError: If nothing is kept, a window is missing, or a state is not what the log says.
    """
    settings = load_settings(options.config)
    if not settings.storage.url:
        raise ValueError("nothing is kept: set storage.url, and storage.keep_inputs before the stream learns")
    store = Store(settings.storage.url)
    found = list(Audit(store.files).entries(options.stream, domains=True))
    entries = [entry for entry in found if entry.stream == options.stream]
    domains = [entry for entry in found if entry.stream != options.stream]
    elsewhere = _elsewhere(store, {entry.stream for entry in domains})
    if not entries:
        raise ValueError(f"the audit log has no line of stream '{options.stream}'{elsewhere}")
    use_threads(settings.engine)
    model, adapter = load_model(settings.model), make_adapter(settings.adapter)
    lesson = _lesson(model, adapter, settings, store, options.stream)
    try:
        state = replay(entries, lesson, options.version, domains)
    except ValueError as error:
        raise ValueError(f"{error}{elsewhere}") from error
    checked = sum(entry.state is not None for entry in entries)
    said = f"stream '{options.stream}': state sha256 {state_digest(state)}, {checked} digests in the log"
    print(f"{said}{elsewhere}")  # noqa: T201
    if options.out:
        last = next((entry for entry in reversed(entries) if "adapter" in entry.extra), None)
        options.out.write_bytes(dump_state(_remade(last) if last else adapter, model.backbone, state))
    return 0


def _elsewhere(store: Store, domains: Set[str]) -> str:
    """Return where to look for what a stream that tells domains apart has learnt; empty if it has none."""
    names = sorted(domains, key=number_of)
    names = [name for name in names if store.is_kept(name)] or names
    return f"; what it learns is in its domains, replay those: {', '.join(names)}" if names else ""


def _lesson(model: Model, adapter: Adapter, settings: Settings, store: Store, stream: str) -> Recipe:
    backbone, radius = network(model, settings), settings.guard.max_distance
    trust = Trust(
        adapter, backbone, adapter.init(backbone, model.reference)
    )  # the same ball for every setting of an adapter

    def window(digest: str) -> torch.Tensor:
        data = store.read_input(stream, digest)
        if data is None:
            raise ValueError(f"window {digest} was not kept; set storage.keep_inputs before the stream learns")
        rows = load(data)
        return on_device((rows[name].numpy() for name in sorted(rows)), backbone.device)

    @cache
    def arrange(memory_format: str) -> Backbone:
        return network(load_model(settings.model.model_copy(update={"memory_format": memory_format})), settings)

    def fetch(entry: Entry) -> State:
        data = store.read(stream, str(entry.extra.get("snapshot", "")))
        if data is None:
            raise ValueError(f"version {entry.version_after} came from a file that was not kept")
        return load_state(adapter, backbone, data, model.reference)

    return Recipe(
        adapter,
        backbone,
        model.reference,
        window,
        project=lambda _state, step, _x: trust.project(step.state, radius),
        fetch=fetch,
        remake=_remade,
        arrange=arrange,
    )


def _remade(entry: Entry) -> Adapter:
    return make_adapter(AdapterSettings(name=entry.extra["adapter"], settings=entry.extra["settings"]))
