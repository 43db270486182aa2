"""`tta-server ready`: whether the server of this configuration, on this machine, would answer a good request.

For the health check of a container: it reads the settings that the server reads, imports little, and trusts no proxy.
"""

import ssl
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final

from tta_server.plain import plain
from tta_server.settings_door import ServerSettings

_TIMEOUT_S: Final = 4.0
_PATH: Final = "/v2/health/ready"
_HERE: Final = {  # where to ask who listens everywhere: at `::` both, for a container may have no address of IPv6
    "0.0.0.0": ("127.0.0.1",),  # noqa: S104 (not to listen on)
    "": ("127.0.0.1",),
    "::": ("::1", "127.0.0.1"),
}


def trouble_of(server: ServerSettings) -> str:
    """Return why the server is not ready; empty if it is.

    Raises:
        ValueError: If the settings do not say at which port it can be asked.
    """
    if not server.port:
        raise ValueError("the server picks a free port, which the configuration does not say; set server.port")
    trouble = ""
    for host in _HERE.get(server.host, (server.host,)):
        with closing(_connection(server, host)) as connection:
            try:
                connection.connect()
            except OSError as error:
                trouble = _silent(error)
                continue
            try:
                connection.request("GET", _PATH)
                answer = connection.getresponse()
                said = answer.read(1000).decode(errors="replace")
            except (OSError, HTTPException) as error:
                return _silent(error)
            return "" if answer.status == 200 else f"not ready: {plain(said)}"
    return trouble


def _silent(error: Exception) -> str:
    return f"no server answers: {plain(str(error) or type(error).__name__)}"


def _connection(server: ServerSettings, host: str) -> HTTPConnection:
    """Return a connection to the server at an address, with TLS as it is set."""
    if server.tls_certificate is None or server.tls_key is None:
        return HTTPConnection(host, server.port, timeout=_TIMEOUT_S)
    tls = ssl.create_default_context()
    tls.check_hostname = False  # the certificate is hardly ever for a loopback address
    tls.verify_mode = ssl.CERT_NONE
    if server.tls_client_ca is not None:  # by its own, if it is of that CA and may be a client's
        tls.load_cert_chain(server.tls_certificate, server.tls_key)
    return HTTPSConnection(host, server.port, timeout=_TIMEOUT_S, context=tls)
