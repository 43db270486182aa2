"""A running server, as its operator asks it over HTTP."""

import json
import ssl
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Literal
from urllib.error import HTTPError
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import Request

from tta_server.bearer import bearer
from tta_server.names import stream_of_domain
from tta_server.telemetry.opener import straight_opener

_TIMEOUT_S: Final = 60.0
_PAGE: Final = 1000


class RefusedError(Exception):
    """The server answered, and said no; the text is the server's."""


class UnreachableError(Exception):
    """No server answered."""


class Server:
    """Ask one server; whatever it answers but success is an error."""

    def __init__(self, url: str, key: str = "", certificate: tuple[Path, Path] | None = None) -> None:
        """Take where it is and the key to show it.

        Args:
            url: Its address, such as http://127.0.0.1:8000, with the path under which a proxy serves it.
            key: An API key; empty if the server takes none.
            certificate: Files of a certificate and of its key, where the server asks for one.

        Raises:
            ValueError: If that is no address, or the key has a character that no key has.
            OSError: If the certificate cannot be read.
        """
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(f"'{url}' is no address of a server; expected one such as http://127.0.0.1:8000")
        self._url = url.rstrip("/")
        self._headers = bearer(key)
        tls = ssl.create_default_context()
        if certificate:
            try:
                tls.load_cert_chain(*certificate)
            except OSError as error:
                files = " and ".join(f"'{file}'" for file in certificate)
                raise OSError(f"{files} are no certificate and its key in PEM that can be read: {error}") from error
        self._opener = straight_opener(tls)

    def get(self, path: str, **query: str | int | None) -> Any:  # noqa: ANN401 (JSON)
        """Return what the server says under a path."""
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return self._json("GET", f"{path}?{asked}" if asked else path)

    def tell(self, method: Literal["POST", "PATCH"], path: str, content: dict[str, Any]) -> Any:  # noqa: ANN401 (JSON)
        """Send an object; return what the server answers."""
        return self._json(method, path, json.dumps(content).encode(), "application/json")

    def upload(self, path: str, data: bytes) -> Any:  # noqa: ANN401 (JSON)
        """Put a file; return what the server answers."""
        return self._json("PUT", path, data, "application/octet-stream")

    def download(self, path: str) -> bytes:
        """Return a file."""
        return self._ask("GET", path)

    def streams(self, **wanted: str | None) -> tuple[list[dict[str, Any]], str]:
        """Return the streams that fit, in short, from all pages, and the replica that knows no others, if one spoke."""
        found: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None:
            page = self.get("/v1/streams", limit=_PAGE, after=after or None, **wanted)
            found += page["streams"]
            after = page["next"]
        return found, page["replica"]

    def _json(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:  # noqa: ANN401 (JSON)
        data = self._ask(method, path, body, kind)
        try:
            return json.loads(data)
        except ValueError as error:
            raise RefusedError(f"what answers at {self._url} is no server of this kind") from error

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        headers = self._headers | ({"Content-Type": kind} if kind else {}) | _stream_header(path)
        request = Request(self._url + path, body, headers, method=method)  # noqa: S310 (checked above)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                return bytes(response.read())
        except HTTPError as error:
            with error:
                raise RefusedError(_said(error.read(), error.code)) from error
        except (OSError, HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            raise UnreachableError(f"no server answers at {self._url}: {reason}") from error


def _stream_header(path: str) -> dict[str, str]:
    """Return the header by which a balancer finds who has the stream that a path is about."""
    asked, _, name = path.partition("?")[0].partition("/v1/streams/")
    stream = stream_of_domain(unquote(name.partition("/")[0]))
    return {"X-Stream-Id": stream} if stream and not asked else {}


def _said(body: bytes, status: int) -> str:
    """Return what the server says is wrong, in one line."""
    try:
        said = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        said = f"the answer was HTTP {status}"
    return " ".join(said.split())
