"""`tta-server replay`: rebuild a stream's state from the audit log, and show that it is what the server had."""

import argparse
import json
from collections.abc import Sequence, Set
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load

from tta_server.adapters import Adapter, State
from tta_server.adapters.checkpoint import dump_state, load_state, plain_settings, state_digest
from tta_server.app import load_model, use_threads
from tta_server.guard.trust import Trust
from tta_server.models import Model
from tta_server.names import number_of, stream_of_domain
from tta_server.runtime.assemble import network
from tta_server.runtime.work.device import on_device
from tta_server.settings import AdapterSettings, Settings, StatisticsSettings
from tta_server.settings_file import load_settings
from tta_server.storage.audit import Audit, Entry
from tta_server.storage.replay import Recipe, replay
from tta_server.storage.store import Store
from tta_server.wanted import make_adapter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--config", type=Path, help="YAML file of the server (default: the one that TTA_CONFIG names)")
    parser.add_argument("--stream", required=True, help="which stream")
    parser.add_argument("--version", type=int, help="version to stop at (default: the newest)")
    parser.add_argument("--out", type=Path, help="write the state to this file, to be imported")


def run(options: argparse.Namespace) -> int:
    """Replay and print the digest; returns 0, or 1 if a line that the state does not come from is not as it says.

    Raises:
        ValueError: If nothing is kept; or if of what the state came from a line or a window is missing, or is not what
            the log says.
    """
    settings = load_settings(options.config)
    if not settings.storage.url:
        raise ValueError("nothing is kept: set storage.url, and storage.keep_inputs before the stream learns")
    store = Store(settings.storage.url)
    audit = Audit(store.files)
    entries, domains = _told(audit, options.stream)
    more = _elsewhere(store, {entry.stream for entry in domains})
    if not entries:
        raise ValueError(f"the audit log has no line of stream '{options.stream}'{more}")
    use_threads(settings.engine)
    model, adapter = load_model(settings.model), make_adapter(settings.adapter)
    lost = "" if audit.begins() else "; the log's oldest files were removed, see storage.audit_segments"
    try:
        lesson = _lesson(model, adapter, settings, store, options.stream)
        proof = replay(entries, lesson, options.version, domains)
    except ValueError as error:
        raise ValueError(f"{error}{lost}{more}") from error
    if lost and not proof.shown:
        raise ValueError(f"no line that is left says which state stream '{options.stream}' has{lost}{more}")
    said = f"stream '{options.stream}': state sha256 {state_digest(proof.state)}, {proof.shown} digests in the log"
    wrong = [doubt for doubt in proof.doubts if doubt.wrong]
    if proof.doubts:
        why = (wrong or proof.doubts)[0].reason
        said += f"; {len(proof.doubts)} more, which it does not come from, are not proved: {why}{lost}"
    print(f"{said}{more}")  # noqa: T201
    if options.out:
        options.out.write_bytes(dump_state(proof.adapter, model.backbone, proof.state))
    return 1 if wrong else 0


def _told(audit: Audit, name: str) -> tuple[list[Entry], list[Entry]]:
    """Return the lines of a stream or domain, and those of its domains; its stream's say if a domain was erased."""
    stream, of_it, of_domains = stream_of_domain(name), list[Entry](), list[Entry]()
    for entry in audit.entries(stream, domains=True):
        if entry.stream == name:
            of_it.append(entry)
        elif entry.stream == stream and name in _erased(entry, name):
            of_it.append(Entry(name, "delete", 0, 0, time=entry.time))
        elif entry.stream != stream and name == stream:
            of_domains.append(entry)
    return of_it, of_domains


def _erased(entry: Entry, name: str) -> Sequence[str]:
    """Return the domains that a line of their stream tells the end of; `name` is one of them."""
    extra = entry.extra
    ends: dict[str, Sequence[str]] = {
        "delete": [name],
        "reset": extra.get("domains", ()),
        "forget": [extra.get("domain", "")],
        "merge": [extra.get("merged", "")],
    }
    return ends.get(entry.event, ())


def _elsewhere(store: Store, domains: Set[str]) -> str:
    """Return where to look for what a stream that tells domains apart has learnt; empty if it has none."""
    names = sorted(domains, key=number_of)
    names = [name for name in names if store.is_kept(name)] or names
    return f"; what it learns is in its domains, replay those: {', '.join(names)}" if names else ""


def _lesson(model: Model, adapter: Adapter, settings: Settings, store: Store, stream: str) -> Recipe:
    """Return how steps of a stream are taken again: as the log says, and as configured where it says nothing."""

    def window(digest: str) -> torch.Tensor:
        data = store.read_input(stream, digest)
        if data is None:
            full = 2 * store.inputs_bytes(stream) > settings.storage.inputs_max_bytes
            why = "storage.inputs_max_bytes left no room for it" if full else "storage.keep_inputs was not set"
            raise ValueError(f"window {digest} is not kept: {why}")
        rows = load(data)
        return on_device((rows[name].numpy() for name in sorted(rows)), model.backbone.device)

    @cache
    def arrange(memory_format: str) -> Model:
        return load_model(settings.model.model_copy(update={"memory_format": memory_format}))

    def recipe(adapter: Adapter, settings: Settings) -> Recipe:
        backbone, radius = network(model, settings), settings.guard.max_distance
        trust = Trust(adapter, backbone, adapter.init(backbone, model.reference))

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
            remake=remake,
            arrange=lambda memory_format: network(arrange(memory_format), settings),
        )

    @cache
    def remade(name: str, given: str) -> Recipe:
        known = json.loads(given)
        same = (name, known["settings"]) == (adapter.name, json.loads(json.dumps(plain_settings(adapter))))
        made = adapter if same else make_adapter(AdapterSettings(name=name, settings=known["settings"]))
        statistics = StatisticsSettings(**known["statistics"] or settings.statistics.model_dump())
        guard = settings.guard.model_copy(update={"max_distance": known["max_distance"] or settings.guard.max_distance})
        return recipe(made, settings.model_copy(update={"statistics": statistics, "guard": guard}))

    def remake(entry: Entry) -> Recipe:
        weights, ours = str(entry.extra.get("weights", "")), model.backbone.spec.digest
        if not ours.startswith(weights):
            at = f"version {entry.version_after} of stream '{stream}'"
            raise ValueError(f"{at} was learnt with weights {weights}, the configured model has {ours[:16]}")
        given = {name: entry.extra.get(name) for name in ("settings", "statistics", "max_distance")}
        return remade(str(entry.extra["adapter"]), json.dumps(given))

    return recipe(adapter, settings)
