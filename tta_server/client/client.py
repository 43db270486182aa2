"""The two clients: one waits for its answers, one is awaited."""

import asyncio
import re
import time
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from tta_server.bearer import bearer
from tta_server.client.calls import Prepared, Returned

_AGAIN: Final = (429, 503)
_MOST_WAIT_S: Final = 60.0

Pair = tuple[str | Path, str | Path]
"""Files of a certificate and of its key, in PEM."""
_NOT_CONNECTED: Final = (httpx.ConnectError, httpx.ConnectTimeout)
_Found = httpx.Response | httpx.ConnectError | httpx.ConnectTimeout


class ServerError(Exception):
    """The server refused a request, or something else answered in its place.

    Attributes:
        status: HTTP status.
        code: What went wrong, the same between versions; empty if something else than the server answered.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        """Take what the server said."""
        super().__init__(status, code, message)  # all of it: another process makes the error anew of these
        self.status = status
        self.code = code

    def __str__(self) -> str:
        return str(self.args[2])


class _Sender:
    """What both clients know: where the server is, and when a request is sent again."""

    def __init__(self, url: str, key: str, timeout_s: float, tries: int, certificate: Pair | None) -> None:
        if tries < 1:
            raise ValueError(f"tries is {tries}, expected 1 or more")
        self._options: dict[str, Any] = {"base_url": url, "timeout": timeout_s, "headers": bearer(key)}
        if certificate:
            self._options["verify"] = httpx.create_ssl_context()
            self._options["verify"].load_cert_chain(*certificate)
        self._tries = tries

    def _pause_s(self, found: _Found, tried: int) -> float | None:
        """Return how long to wait before a request is sent again; None if it is not."""
        response = found if isinstance(found, httpx.Response) else None
        if tried >= self._tries or (response and response.status_code not in _AGAIN):
            return None
        told_s = _told_s(response.headers.get("retry-after", "")) if response else None
        return min(0.1 * 2**tried if told_s is None else told_s, _MOST_WAIT_S)


def _told_s(said: str) -> float | None:
    """Return how long to wait by a header `Retry-After`, a number of seconds or a date; None if it is neither."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", said):
        return float(said)
    try:
        until = parsedate_to_datetime(said).replace(tzinfo=UTC)  # such dates are in GMT, whether they say so or not
    except (ValueError, OverflowError):
        return None
    return max(0.0, until.timestamp() - time.time())


class Client(_Sender):
    """Ask a server, and wait for its answers; every thread may use it.

    with Client("http://127.0.0.1:8000") as server:
        server.ask(predict("frame.png", stream="gate-7"))
    """

    def __init__(
        self, url: str, key: str = "", timeout_s: float = 30.0, tries: int = 4, certificate: Pair | None = None
    ) -> None:
        """Take the address of a server.

        Args:
            url: Such as `http://127.0.0.1:8000`.
            key: An API key or a token, where the server asks for one; white space around it is left out.
            timeout_s: How long one try may wait for anything.
            tries: How often a request is sent at most.
            certificate: What is shown to a server that asks for certificates. `SSL_CERT_FILE` says which CA to believe.

        Raises:
            ValueError: If the key has a character that no key has, or `tries` is less than 1.
            OSError: If a file of the certificate cannot be read, or does not hold one (`ssl.SSLError`).
        """
        super().__init__(url, key, timeout_s, tries, certificate)
        self._http = httpx.Client(**self._options)

    def ask(self, asked: Prepared[Returned]) -> Returned:
        """Return the answer to a request: JSON as it is, a file as bytes, None where the server says nothing.

        Raises:
            ServerError: If the server refuses it, still has no room after the last try, or something else answers.
            httpx.TransportError: If the server cannot be reached.
        """
        tried = 0
        while True:
            tried += 1
            try:
                found: _Found = self._http.request(asked.method, asked.path, **asked.arguments())
            except _NOT_CONNECTED as error:
                found = error
            if (pause_s := self._pause_s(found, tried)) is None:
                answer: Returned = _answer(found, asked.comes)
                return answer
            time.sleep(pause_s)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Sender):
    """The same, awaited."""

    def __init__(
        self, url: str, key: str = "", timeout_s: float = 30.0, tries: int = 4, certificate: Pair | None = None
    ) -> None:
        """Take what `Client` takes."""
        super().__init__(url, key, timeout_s, tries, certificate)
        self._http = httpx.AsyncClient(**self._options)

    async def ask(self, asked: Prepared[Returned]) -> Returned:
        """Return the answer to a request, as `Client.ask` does."""
        tried = 0
        while True:
            tried += 1
            try:
                found: _Found = await self._http.request(asked.method, asked.path, **asked.arguments())
            except _NOT_CONNECTED as error:
                found = error
            if (pause_s := self._pause_s(found, tried)) is None:
                answer: Returned = _answer(found, asked.comes)
                return answer
            await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _answer(found: _Found, comes: str) -> Any:  # noqa: ANN401 (its request says of which type it is)
    if not isinstance(found, httpx.Response):
        raise found
    if found.is_success:
        return _content(found, comes)
    if found.has_redirect_location:
        where = found.headers["location"][:200]
        raise ServerError(found.status_code, "", f"{found.status_code}: this address leads to {where}; ask there")
    try:
        said = found.json()
        code, message = said["code"], said["error"]
    except (ValueError, KeyError, TypeError):
        code, message = "", found.text[:200]
    raise ServerError(found.status_code, code, f"{found.status_code}: {message}")


def _content(response: httpx.Response, comes: str) -> Any:  # noqa: ANN401 (as above)
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if comes == "nothing" and not response.content:
        return None
    if comes == "anything" and not (response.content and kind == "application/json"):
        return response.content or None
    if comes == "file" and kind == "application/octet-stream":
        return response.content
    with suppress(ValueError):
        if comes in ("json", "anything"):
            return response.json()
    what = f"{comes} was due, and '{kind[:80]}' came: that is no answer of this server"
    raise ServerError(response.status_code, "", f"{response.status_code}: {what}")
