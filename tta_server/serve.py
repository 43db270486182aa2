"""Run the server until a signal ends it."""

import logging
import signal
import socket
import sys

import uvicorn
from rich.console import Console
from rich.table import Table

from tta_server.app import Service, build, use_threads
from tta_server.guard.lacking import lacking, sentences
from tta_server.settings import Settings

_DRAIN_S = 20  # below the 30 s that container platforms give by default


def serve(settings: Settings) -> None:
    """Load the model, say what is being served and where, and answer until SIGTERM or SIGINT.

    Raises:
        ValueError: If the address cannot be had, or the configuration does not fit the model.
    """
    logging.basicConfig(
        level=settings.server.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    # uvicorn drains and then raises the signal again: to be told to stop and to stop is a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    console = Console(stderr=True)
    use_threads(settings.engine)
    address = _bound(settings.server.host, settings.server.port)
    with address:
        with console.status("loading the model"):
            service = build(settings)
        host, port = address.getsockname()[:2]
        console.print(summary(service, f"http://{host}:{port}"))
        config = uvicorn.Config(
            service.app,
            log_level=settings.server.log_level,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_DRAIN_S,
        )
        uvicorn.Server(config).run(sockets=[address])


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket with an address: a taken one shows before a model is loaded. Only uvicorn listens on it."""
    address = socket.socket()
    try:
        address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address.bind((host, port))
    except OSError as error:
        address.close()
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"cannot listen on {host}:{port}: {reason}; choose another with --host and --port") from error
    return address


def summary(service: Service, address: str) -> Table:
    """Return what is served, where, and what is missing, as a person who starts a server reads it."""
    settings, spec = service.settings, service.served.model.backbone.spec
    given = ", ".join(f"{key}={value}" for key, value in settings.adapter.settings.items())
    rows = {
        "address": address,
        "model": f"{spec.name}, {spec.classes} classes, {'x'.join(map(str, spec.input_shape))}",
        "weights": f"sha256 {spec.digest[:16]}",
        "device": str(service.served.model.backbone.device),
        **service.served.model.backbone.findings.remarks,
        "bundle": _bundle(service),
        "adapter": f"{settings.adapter.name} ({given or 'defaults'})",
        "streams": _streams(service),
        "try": f"curl {address}/v2/health/ready",
    }
    table = Table(show_header=False, title="tta-server", title_justify="left")
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def _streams(service: Service) -> str:
    """Say how streams learn, those that nobody configured by name."""
    settings, registry = service.settings, service.served.registry
    told = f"mode '{registry.modes.usual('')}', windows of {settings.engine.window_rows} images"
    return f"{told}, up to {settings.domains.max} domains each" if registry.tells_apart else f"{told}, one state each"


def _bundle(service: Service) -> str:
    """Say what the reference bundle lacks, and what that costs."""
    reference = service.served.model.reference
    about = reference.about if reference else {}
    found = (
        f"of {about.get('images', 'some')} source images" if reference else "none; make one with 'tta-server calibrate'"
    )
    missing = lacking(reference, [service.served.methods.default.adapter])
    return "\n".join([found, *sentences(missing, about.get("left_out", {}))])
