"""Run the server until a signal ends it."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from typing import Any

import uvicorn
from rich.console import Console
from starlette.types import ASGIApp

from tta_server import __version__
from tta_server.addresses import address_of
from tta_server.api.front.connection import connection_class
from tta_server.api.front.handshake import Handshakes
from tta_server.api.front.websites import OwnPages
from tta_server.app import Service, build, turned_away, use_threads
from tta_server.runtime.memory import share_arenas
from tta_server.runtime.roster import Roster
from tta_server.settings import Settings
from tta_server.settings_door import ServerSettings
from tta_server.start import start_facts, start_table
from tta_server.telemetry.log_format import fields, write_log

log = logging.getLogger(__name__)

_DRAIN_S = 20  # for requests; what else a stop takes, docs/operations.md adds up
_END_S = 3.0
_OTHER_FILES = 512  # libraries, weights, the device, states that are written together


def serve(settings: Settings) -> None:
    """Load the model, say what is being served and where, and answer until SIGTERM, SIGINT or SIGHUP.

    Raises:
        SystemExit: At the end, with status 0 after SIGTERM or SIGHUP; with 1 if not everything could be written.
        ValueError: If the address cannot be had, or the configuration does not fit the model.
    """
    level = settings.logging.level
    write_log(level, settings.logging.format)
    # uvicorn drains and then raises the signal again: to be told to stop and to stop is a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    console = Console(stderr=True, quiet=settings.logging.format == "json")  # the log says it then
    share_arenas()
    use_threads(settings.engine)
    _expect_keys(settings)
    tls = _tls_options(settings.server)
    _allow_files(settings)
    settings = _with_grpc_port(_with_a_family(settings))
    with ExitStack() as listeners:
        address = listeners.enter_context(_bound(settings.server.host, settings.server.port))
        settings, sockets = _with_port(settings, "port", address), [address]
        if settings.server.admin_port is not None:
            sockets.append(listeners.enter_context(_bound(settings.server.host, settings.server.admin_port)))
            settings = _with_port(settings, "admin_port", sockets[1])
        with console.status("loading the model"):
            service = build(settings)
            service.models.start()  # before uvicorn, which would tell what goes wrong as a traceback
        facts = start_facts(service, _url(address, "https" if tls else "http"))
        console.print(start_table(facts))
        config = uvicorn.Config(
            _before_browsers(service),
            log_level="warning" if level == "info" else level,  # what uvicorn says at info is said here
            log_config=None,
            access_log=False,
            http=connection_class(settings.limits, turned_away(service.served, service.bursts)),
            ws="none",
            proxy_headers=False,
            server_header=False,
            root_path=settings.server.root_path,
            timeout_keep_alive=settings.server.keep_alive_s,  # type: ignore[arg-type]
            timeout_graceful_shutdown=_DRAIN_S,  # calls of gRPC have their own time, behind it
            **tls,
        )
        _say_start(settings, service.served.name, facts)
        try:
            _Server(config, service).run(sockets=sockets)
        finally:
            log.info("stopped", extra=fields(model=service.served.name))
            gc.freeze()  # or the end of the interpreter would go through every stream and all of torch
            if service.models.lost:
                sys.exit(1)


class _Server(uvicorn.Server):
    """uvicorn's, which says that it stops, answers until a balancer has noticed, and only then closes.

    Where others take streams over everything is written before the address is closed: who takes one waits until then.
    And handshakes of TLS, for which it has a minute and no limit, count as connections.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._models = service.models
        self._served = service.served
        self._drain_s = service.settings.server.drain_s
        self._failed = partial(turned_away(service.served, service.bursts), "handshake")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, and then listen."""
        await super().startup(sockets=[])
        config, loop = self.config, asyncio.get_running_loop()

        def connection() -> Any:  # noqa: ANN401 (the class is made for the settings)
            known = {"config": config, "server_state": self.server_state, "app_state": self.lifespan.state}
            return config.http_protocol_class(**known)

        for address in sockets or []:
            listening: Any
            if config.ssl is None:
                listening = await loop.create_server(connection, sock=address, backlog=config.backlog)
            else:
                address.listen(config.backlog)
                address.setblocking(False)
                listening = Handshakes(address, config.ssl, connection, self.server_state.connections, self._failed)
            self.servers.append(listening)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, finish and close."""
        self._served.leaving.set()
        await asyncio.sleep(self._drain_s)
        if self._served.tenure:
            await asyncio.to_thread(self._served.finish)
        await super().shutdown(sockets)
        threading.Thread(target=_leave_behind, args=(self._models,), name="end", daemon=True).start()


def _leave_behind(models: Roster) -> None:
    """End the process though a thread still waits for a storage that hangs: Python would wait for it for ever."""
    time.sleep(_END_S)
    left = sum(not each.daemon for each in threading.enumerate() if each is not threading.main_thread())
    if left:
        log.warning("stopped; %d threads that do not end are left behind", left)
        os._exit(int(models.lost))


def _say_start(settings: Settings, model: str, facts: Mapping[str, str]) -> None:
    """Begin the log: what is on and what is not, where no table says it."""
    about = facts if settings.logging.format == "json" else {"version": __version__}
    log.info("started: %s at %s", model, facts["address"], extra=fields(**about))


def _before_browsers(service: Service) -> ASGIApp:
    """Return what answers, behind a look for websites where a browser has what it takes: no key, or its certificate."""
    auth, server = service.settings.auth, service.settings.server
    if auth.asks_for_keys or (auth.insecure_public and server.tls_client_ca is None):
        return service.app
    return OwnPages(service.app, turned_away(service.served, service.bursts), any_host=auth.insecure_public)


def _expect_keys(settings: Settings) -> None:
    """Refuse to listen where others can reach a server that lets everybody do everything.

    Raises:
        ValueError: If the address is public, there are no keys, and nobody said that this is meant.
    """
    host, auth = settings.server.host, settings.auth
    if not auth.asks_for_keys and not auth.insecure_public and not _is_loopback(host):
        raise ValueError(
            f"{host} is a public address and this server has no keys, so that everybody could change everything; make "
            "some with 'tta-server keys new' and set auth.keys_file, or say that it is meant with --insecure-public"
        )


def _is_loopback(host: str) -> bool:
    address = address_of(host)
    return address.is_loopback if address else host == "localhost"


def _tls_options(server: ServerSettings) -> dict[str, Any]:
    """Return uvicorn's options for TLS, none if it is off; files that do not serve show before a model loads.

    Raises:
        ValueError: If a file cannot be read or holds something else, or the key is another certificate's.
    """
    certificate, key, client_ca = server.tls_certificate, server.tls_key, server.tls_client_ca
    if certificate is None or key is None:
        return {}
    for name, path in (("tls_certificate", certificate), ("tls_key", key), ("tls_client_ca", client_ca)):
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ValueError(f"server.{name} '{path}' cannot be read: {reason}") from error
    tried = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        tried.load_cert_chain(certificate, key, password="")  # without one, OpenSSL would ask the terminal
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            raise ValueError(
                f"server.tls_key '{key}' is not the key of server.tls_certificate '{certificate}'"
            ) from error
        raise ValueError(
            f"server.tls_certificate '{certificate}' and server.tls_key '{key}' must be a certificate in PEM, and its "
            "key in PEM without a passphrase"
        ) from error
    if client_ca is None:
        return {"ssl_certfile": certificate, "ssl_keyfile": key}
    try:
        tried.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise ValueError(f"server.tls_client_ca '{client_ca}' holds no certificate in PEM") from error
    return {
        "ssl_certfile": certificate,
        "ssl_keyfile": key,
        "ssl_ca_certs": str(client_ca),
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
    }


def _allow_files(settings: Settings) -> None:
    """Have the system let this process open a file for each connection, those of gRPC too, and some.

    Raises:
        ValueError: If it does not.
    """
    connections = settings.limits.max_connections
    wanted = connections * (1 if settings.server.grpc_port is None else 2) + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ValueError(
            f"limits.max_connections is {connections}, which takes {wanted} open files, and the system allows {hard}; "
            "set it lower, or raise the limit (ulimit -n)"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _with_grpc_port(settings: Settings) -> Settings:
    """Return the settings with the port that gRPC will have; what keeps it from having one shows before a model loads.

    Raises:
        ValueError: If the port cannot be had, or gRPC is not installed.
    """
    server = settings.server
    if server.grpc_port is None:
        return settings
    if find_spec("grpc") is None or find_spec("google.protobuf") is None:
        raise ValueError("server.grpc_port needs grpcio and protobuf; install tta-server[grpc]")
    with _bound(server.host, server.grpc_port) as tried:
        return _with_port(settings, "grpc_port", tried)


def _with_a_family(settings: Settings) -> Settings:
    """Return the settings with every interface of IPv4 where every one is asked for and the system has no IPv6."""
    if settings.server.host != "::" or _has_ipv6():
        return settings
    log.warning("server.host is ::, and this system has no IPv6: listening on 0.0.0.0")
    return settings.model_copy(update={"server": settings.server.model_copy(update={"host": "0.0.0.0"})})  # noqa: S104


def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        return False
    return True


def _with_port(settings: Settings, name: str, address: socket.socket) -> Settings:
    """Return the settings with the port that a socket has."""
    server = settings.server.model_copy(update={name: address.getsockname()[1]})
    return settings.model_copy(update={"server": server})


def _url(address: socket.socket, scheme: str) -> str:
    host, port = address.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket with an address: a taken one shows before a model is loaded. Only uvicorn listens on it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with ExitStack() as unless_bound:
            address = unless_bound.enter_context(socket.socket(family))
            address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                address.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # whatever the system's rule: IPv4 too
            address.bind((host, port))
            unless_bound.pop_all()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(
            f"cannot listen on {host}:{port}: {reason}; choose another with --host and --port, or as "
            "server.grpc_port or server.admin_port"
        ) from error
    return address
