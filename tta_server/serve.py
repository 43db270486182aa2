"""Run the server until a signal ends it."""

import logging
import resource
import signal
import socket
import sys
from ipaddress import ip_address

import uvicorn
from rich.console import Console
from rich.table import Table

from tta_server.api.connection import connection_class
from tta_server.api.responses import SECURITY_HEADERS
from tta_server.app import Service, build, use_threads
from tta_server.guard.lacking import lacking, sentences
from tta_server.settings import Settings

_DRAIN_S = 20  # below the 30 s that container platforms give by default
_OTHER_FILES = 256  # libraries, weights, states, the device


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
    _expect_keys(settings)
    _allow_files(settings.limits.max_connections)
    address = _bound(settings.server.host, settings.server.port)
    with address:
        with console.status("loading the model"):
            service = build(settings)
        host, port = address.getsockname()[:2]
        console.print(summary(service, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"))
        config = uvicorn.Config(
            service.app,
            log_level=settings.server.log_level,
            log_config=None,
            access_log=False,
            http=connection_class(settings.limits, service.served.metrics.refused),
            ws="none",
            proxy_headers=False,
            server_header=False,
            headers=SECURITY_HEADERS,
            root_path=settings.server.root_path,
            timeout_keep_alive=settings.server.keep_alive_s,  # type: ignore[arg-type]
            timeout_graceful_shutdown=_DRAIN_S,
        )
        uvicorn.Server(config).run(sockets=[address])


def _expect_keys(settings: Settings) -> None:
    """Refuse to listen where others can reach a server that lets everybody do everything.

    Raises:
        ValueError: If the address is public, there are no keys, and nobody said that this is meant.
    """
    host, auth = settings.server.host, settings.auth
    if auth.keys_file is None and not auth.insecure_public and not _is_loopback(host):
        raise ValueError(
            f"{host} is a public address and this server has no keys, so that everybody could change everything; make "
            "some with 'tta-server keys new' and set auth.keys_file, or say that it is meant with --insecure-public"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allow_files(connections: int) -> None:
    """Have the system let this process open a file for each connection, and some.

    Raises:
        ValueError: If it does not.
    """
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ValueError(
            f"limits.max_connections is {connections}, which takes {wanted} open files, and the system allows {hard}; "
            "set it lower, or raise the limit (ulimit -n)"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket with an address: a taken one shows before a model is loaded. Only uvicorn listens on it."""
    address = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
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
