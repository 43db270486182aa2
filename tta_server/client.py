"""A client of the server: predictions, labels and what operators do with streams, at once or awaited.

A request that the server has no room for (429, 503) is sent again after as long as it says, a few times; so is one
whose connection could not be made. A stream that is set aside is not asked again. It needs httpx, and no torch.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt

_AGAIN: Final = (429, 503)
_MOST_WAIT_S: Final = 60.0
_HEADER: Final = "Inference-Header-Content-Length"

Json = dict[str, Any]
_Found = httpx.Response | httpx.ConnectError
ImageFiles = Iterable[str | Path | bytes] | str | Path | bytes
"""Image files: paths, or what is in them; one or several."""


class ServerError(Exception):
    """The server refused a request.

    Attributes:
        status: HTTP status.
        code: What went wrong, the same between versions; empty if something else than the server answered.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        """Take what the server said."""
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to be sent, as httpx takes one; each call of a client is one of these."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str | int] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None

    def arguments(self) -> Json:
        """Return what httpx takes beside method and path; nothing that is left out."""
        given = {name: getattr(self, name) for name in ("headers", "params", "json", "content", "files")}
        return {name: value for name, value in given.items() if value}


def predict(files: ImageFiles, stream: str = "", top_k: int | None = None, request_id: str = "") -> Prepared:
    """Return a request to classify image files.

    Args:
        files: Paths or contents of files.
        stream: Which stream answers; the server's default if empty.
        top_k: How many classes are listed for each image.
        request_id: What labels that come later call it; the server makes one up if empty.

    Raises:
        OSError: If a file cannot be read.
    """
    listed = [files] if isinstance(files, str | Path | bytes) else list(files)
    parts = [("image", _file(each, place)) for place, each in enumerate(listed, 1)]
    params = {} if top_k is None else {"top_k": top_k}
    return Prepared("POST", "/predict", _named(stream, request_id), params, files=parts)


def infer(model: str, images: npt.NDArray[Any], stream: str = "", request_id: str = "") -> Prepared:
    """Return a request to classify an array, sent as bytes.

    Args:
        model: Name of the model.
        images: (N, C, H, W), uint8, or floats in [0, 1].
        stream: Which stream answers; the server's default if empty.
        request_id: What labels that come later call it.
    """
    pixels = images if images.dtype == np.uint8 else images.astype("<f4")
    content = np.ascontiguousarray(pixels).tobytes()
    tensor = {
        "name": "input",
        "datatype": "UINT8" if pixels.dtype == np.uint8 else "FP32",
        "shape": list(pixels.shape),
        "parameters": {"binary_data_size": len(content)},
    }
    text = httpx.Request("POST", "http://x", json={"inputs": [tensor]}).content
    headers = _named(stream, request_id) | {_HEADER: str(len(text)), "Content-Type": "application/octet-stream"}
    return Prepared("POST", f"/v2/models/{quote(model, safe='')}/infer", headers, content=text + content)


def labels(given: Iterable[Mapping[str, Any]], stream: str = "") -> Prepared:
    """Return a request that tells true labels: `id` of the request, `label`, and `image` or `stream` where needed.

    Args:
        given: The labels.
        stream: Whose they are, where a balancer must find the replica that answered.
    """
    return Prepared("POST", "/v1/labels", _named(stream), json={"labels": [dict(each) for each in given]})


def streams(limit: int = 100, after: str = "", **asked: str) -> Prepared:
    """Return a request for a page of streams; `asked` may be `mode`, `answers`, `frozen` and `in_memory`."""
    return Prepared("GET", "/v1/streams", params={"limit": limit, "after": after, **asked})


def create(name: str, **settings: object) -> Prepared:
    """Return a request to open a stream; `settings` may be `mode`, `adapter` and `reason`."""
    return Prepared("POST", "/v1/streams", _named(name), json={"name": name, **settings})


def show(stream: str, what: str = "") -> Prepared:
    """Return a request to read a stream; `what` may be `drift`, `domains`, `snapshots` or `audit`."""
    return _about("GET", stream, what)


def change(stream: str, **settings: object) -> Prepared:
    """Return a request to change how a stream learns; `settings` may be `mode`, `adapter` and `reason`."""
    return _about("PATCH", stream, json=settings)


def act(stream: str, action: str, **settings: object) -> Prepared:
    """Return a request to `reset`, `rollback`, `restore`, `evict` or keep (`snapshots`) a stream.

    Args:
        stream: Its name.
        action: One of these.
        settings: Such as `reason`, which `rollback` and `restore` need, `version` or `snapshot`.
    """
    return _about("POST", stream, action, json=settings)


def delete(stream: str) -> Prepared:
    """Return a request to erase a stream."""
    return _about("DELETE", stream)


class _Sender:
    """What both clients know: where the server is, and when a request is sent again."""

    def __init__(self, url: str, key: str, timeout_s: float, tries: int) -> None:
        if tries < 1:
            raise ValueError(f"tries is {tries}, expected 1 or more")
        self._options: Json = {"base_url": url, "timeout": timeout_s}
        if key:
            self._options["headers"] = {"Authorization": f"Bearer {key}"}
        self._tries = tries

    def _pause_s(self, found: _Found, tried: int) -> float | None:
        """Return how long to wait before a request is sent again; None if it is not."""
        response = found if isinstance(found, httpx.Response) else None
        if tried >= self._tries or (response and response.status_code not in _AGAIN):
            return None
        said = response.headers.get("retry-after", "") if response else ""
        return min(float(said) if said.isdigit() else 0.1 * 2**tried, _MOST_WAIT_S)


class Client(_Sender):
    """Ask a server, and wait for its answers; every thread may use it.

    with Client("http://127.0.0.1:8000") as server:
        server.ask(predict("frame.png", stream="gate-7"))
    """

    def __init__(self, url: str, key: str = "", timeout_s: float = 30.0, tries: int = 4) -> None:
        """Take the address of a server.

        Args:
            url: Such as `http://127.0.0.1:8000`.
            key: An API key or a token, where the server asks for one.
            timeout_s: How long one try may wait for anything.
            tries: How often a request is sent at most.
        """
        super().__init__(url, key, timeout_s, tries)
        self._http = httpx.Client(**self._options)

    def ask(self, asked: Prepared) -> Json:
        """Return the answer to a request; empty where the server says nothing.

        Raises:
            ServerError: If the server refuses it, or still has no room after the last try.
            httpx.TransportError: If the server cannot be reached.
        """
        tried = 0
        while True:
            tried += 1
            try:
                found: _Found = self._http.request(asked.method, asked.path, **asked.arguments())
            except httpx.ConnectError as error:
                found = error
            if (pause_s := self._pause_s(found, tried)) is None:
                return _answer(found)
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

    def __init__(self, url: str, key: str = "", timeout_s: float = 30.0, tries: int = 4) -> None:
        """Take what `Client` takes."""
        super().__init__(url, key, timeout_s, tries)
        self._http = httpx.AsyncClient(**self._options)

    async def ask(self, asked: Prepared) -> Json:
        """Return the answer to a request, as `Client.ask` does."""
        tried = 0
        while True:
            tried += 1
            try:
                found: _Found = await self._http.request(asked.method, asked.path, **asked.arguments())
            except httpx.ConnectError as error:
                found = error
            if (pause_s := self._pause_s(found, tried)) is None:
                return _answer(found)
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


def _answer(response: _Found) -> Json:
    if isinstance(response, httpx.ConnectError):
        raise response
    if response.is_success:
        found: Json = response.json() if response.content else {}
        return found
    try:
        said = response.json()
        code, message = said["code"], said["error"]
    except (ValueError, KeyError, TypeError):
        code, message = "", response.text[:200]
    raise ServerError(response.status_code, code, f"{response.status_code}: {message}")


def _named(stream: str, request_id: str = "") -> dict[str, str]:
    given = {"X-Stream-Id": stream, "X-Request-Id": request_id}
    return {name: value for name, value in given.items() if value}


def _about(method: str, name: str, what: str = "", json: Any = None) -> Prepared:  # noqa: ANN401 (JSON)
    """Return a request about a stream or a domain of it; the header has balancers find the replica that has it."""
    path = f"/v1/streams/{quote(name, safe='@')}"
    return Prepared(method, f"{path}/{what}" if what else path, _named(name.partition("@")[0]), json=json)


def _file(file: str | Path | bytes, place: int) -> tuple[str, bytes]:
    if isinstance(file, bytes):
        return f"image-{place}", file
    return Path(file).name, Path(file).read_bytes()
