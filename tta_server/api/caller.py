"""Who calls, for a window, which one client may not fill, and for the audit log; and whether he still waits."""

from collections.abc import Sequence

from fastapi import Request

from tta_server.addresses import Address, address_of, network_of
from tta_server.api.front.permission import key_of
from tta_server.errors import BadRequest
from tta_server.runtime.commands.desk import Who
from tta_server.runtime.hung_up import Gone

_MOST_CHARACTERS = 64
_RESERVED = "engine"  # whom the audit log calls the server itself


class Callers:
    """Say who sent a request: the key, if the server has keys, or else the address; a proxy may name others.

    Only proxies that are configured are believed; whatever else says who it is, is who its address says.
    """

    def __init__(self, client_header: str = "", trusted_proxies: Sequence[str] = ()) -> None:
        """Take names from proxies.

        Args:
            client_header: Header in which they name the client; empty takes `X-Forwarded-For`.
            trusted_proxies: Their addresses or networks.
        """
        self._client_header = client_header
        self._proxies = [network_of(each) for each in trusted_proxies]

    def client(self, request: Request) -> str:
        """Return who sent images."""
        if request.scope.get("state", {}).get("keyring") is not None:
            return key_of(request).name
        return self._address(request)

    def _address(self, request: Request) -> str:
        peer = request.client.host if request.client else ""
        if not self._trusts(address_of(peer) if self._proxies else None):
            return peer
        if self._client_header:
            return _shown(request.headers.get(self._client_header, "")) or peer
        # Each proxy adds whom it was asked by: the last whom no proxy of ours is, is the client.
        for each in reversed(",".join(request.headers.getlist("x-forwarded-for")).split(",")):
            if (address := _address_in(each.strip())) is None and each.strip():
                break  # who wrote that knows no address, and what stands before it may be anybody's
            if address and not self._trusts(address):
                return str(address)
        return peer

    def who(self, request: Request, reason: str = "") -> Who:
        """Return who asks for a change, and why.

        Raises:
            BadRequest: If he goes by the server's own name.
        """
        peer = request.client.host if request.client else ""
        actor = _shown(request.headers.get("x-actor", "")) if self._trusts(address_of(peer)) else ""
        name = actor or self.client(request) or "unknown"
        if name.casefold() == _RESERVED:
            raise BadRequest(f"who asks is called '{name}', which is what the audit log calls the server itself")
        request_id = request.scope.get("state", {}).get("request_id", "")
        return Who(name, reason, request_id)

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in each for each in self._proxies)


def hung_up(request: Request) -> Gone:
    """Return what returns when the caller has hung up; the request's body must have been read."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass  # what is left of a form's body

    return wait


def _address_in(entry: str) -> Address | None:
    """Return the address that a proxy has written, some with a port: `192.0.2.1:4242`, `[2001:db8::1]:4242`."""
    host, colon, port = entry.rpartition(":")
    bracketed = entry.startswith("[")
    if colon and port.isdecimal() and (host.endswith("]") if bracketed else ":" not in host):
        entry = host
    return address_of(entry[1:-1] if bracketed and entry.endswith("]") else entry)


def _shown(text: str) -> str:
    return "".join(character for character in text if character.isprintable()).strip()[:_MOST_CHARACTERS]
