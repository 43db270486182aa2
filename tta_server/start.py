"""What a server says of itself when it starts: what is on, what is not, and why."""

import re
from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from tta_server.app import Service
from tta_server.guard.lacking import told
from tta_server.telemetry.webhook import place_of


def start_table(facts: Mapping[str, str]) -> Table:
    """Return `start_facts` as a person who starts a server reads them."""
    table = Table(show_header=False, title="tta-server", title_justify="left")
    for key, value in facts.items():
        table.add_row(key, escape(value))
    return table


def start_facts(service: Service, address: str) -> dict[str, str]:
    """Return what is served, where, what is on, and what is missing: a word and a text each."""
    settings, spec = service.settings, service.served.model.backbone.spec
    given = ", ".join(f"{key}={value}" for key, value in settings.adapter.settings.items())
    return {
        "address": address,
        "grpc": _grpc(service),
        "operations": _operations(service),
        "tls": _tls(service),
        "model": f"{spec.name}, {spec.classes} classes, {'x'.join(map(str, spec.input_shape))}",
        "others": ", ".join(settings.repository.models) or "none, repository.models is empty",
        "weights": f"sha256 {spec.digest[:16]}",
        "device": str(service.served.model.backbone.device),
        **service.served.model.backbone.findings.remarks,
        "memory": service.served.model.memory,
        "runtime": service.served.model.answers.remark if service.served.model.answers else "torch",
        "bundle": _bundle(service),
        "adapter": f"{settings.adapter.name} ({given or 'defaults'})",
        "streams": _streams(service),
        "domains": _domains(service),
        "guard": _guard(service),
        "drift": _drift(service),
        "storage": _storage(service),
        "keys": _keys(service),
        "webhooks": _webhooks(service),
        "traces": service.settings.tracing.endpoint or "off, tracing.endpoint is empty",
        "log": _log(service),
        "try": f"curl {_shown_by(service)}{address}/v2/health/ready",
    }


def _grpc(service: Service) -> str:
    server = service.settings.server
    return f"port {server.grpc_port}" if server.grpc_port is not None else "off, server.grpc_port is empty"


def _operations(service: Service) -> str:
    port = service.settings.server.admin_port
    return "on the same port, server.admin_port is empty" if port is None else f"port {port} alone"


def _tls(service: Service) -> str:
    server = service.settings.server
    if server.tls_certificate is None:
        return "off, server.tls_certificate is empty"
    asks = f", and clients show one by {server.tls_client_ca}" if server.tls_client_ca else ""
    return f"on, with {server.tls_certificate}{asks}"


def _shown_by(service: Service) -> str:
    """Return what curl needs to get through TLS; no certificate is for the address that a server is bound to."""
    server = service.settings.server
    if server.tls_certificate is None:
        return ""
    return "-k --cert CERTIFICATE --key KEY " if server.tls_client_ca else "-k "


def _has(service: Service, part: str) -> bool:
    reference = service.served.model.reference
    return reference is not None and part in reference.parts


def _streams(service: Service) -> str:
    """Say how streams learn, those that nobody configured by name."""
    settings, registry = service.settings, service.served.registry
    when = ", only while they drift" if settings.streams.adapt_when == "drift" else ""
    return f"mode '{registry.modes.usual('')}', windows of {settings.engine.window_rows} images{when}"


def _domains(service: Service) -> str:
    most = service.settings.domains.max
    if service.served.registry.tells_apart:
        return f"on, up to {most} for each stream"
    if most == 1:
        return "off, domains.max is 1: one state learns from everything"
    return "off, the bundle has no style: inputs cannot be told apart"


def _guard(service: Service) -> str:
    if not service.settings.guard.enabled:
        return "off, guard.enabled is false: whatever is learnt answers, unjudged"
    return "on" if _has(service, "canary") else "on, without the canary: the bundle has none"


def _drift(service: Service) -> str:
    if not service.settings.drift.enabled:
        return "off, drift.enabled is false"
    if _has(service, "null"):
        return "on"
    if service.served.registry.tells_apart:
        return "on, by the look of images only: the bundle has no null to compare scores with"
    return "unknown for every stream: the bundle has nothing to compare with"


def _storage(service: Service) -> str:
    url = service.settings.storage.url
    if not url:
        return "none, storage.url is empty: what streams learn and the audit log live in memory"
    inputs = "with" if service.settings.storage.keep_inputs else "without"
    return f"{re.sub('//[^/@]*@', '//', url)}, {inputs} the windows learnt from"


def _keys(service: Service) -> str:
    auth = service.settings.auth
    if not auth.asks_for_keys:
        return "none: everybody who reaches the server may do everything"
    taken = [f"from {auth.keys_file}"] if auth.keys_file else []
    if auth.jwt_keys_file:
        taken.append(f"tokens of {auth.jwt_issuer} for {auth.jwt_audience}, by {auth.jwt_keys_file}")
    return f"asked for, {' and '.join(taken)}"


def _webhooks(service: Service) -> str:
    settings = service.settings.webhooks
    if not settings.url:
        return "none, webhooks.url is empty: who does not look is not told of drift"
    signed = "signed" if settings.secret.get_secret_value() else "unsigned, webhooks.secret is empty"
    return f"drift, freezes and restores to {place_of(settings.url)}, {signed}"


def _log(service: Service) -> str:
    settings = service.settings.logging
    return f"{settings.format}, from level {settings.level}, {'with' if settings.access else 'without'} each request"


def _bundle(service: Service) -> str:
    model = service.served.model
    return told(model.reference, model.backbone.spec, [service.served.methods.default.adapter])
