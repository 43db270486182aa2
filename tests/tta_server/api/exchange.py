"""One request to an ASGI application, by hand."""

import asyncio
from collections.abc import Iterable


class Exchange:
    """One request, part by part, and what came back."""

    def __init__(self, parts: Iterable[bytes], headers: dict[str, str] | None = None, path: str = "/echo") -> None:
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        }
        self._parts = list(parts)
        self.read = 0
        self.sent: list[dict] = []

    async def receive(self) -> dict:
        if not self._parts:
            return {"type": "http.disconnect"}
        part = self._parts.pop(0)
        self.read += len(part)
        return {"type": "http.request", "body": part, "more_body": bool(self._parts)}

    async def send(self, message: dict) -> None:
        self.sent.append(message)

    def through(self, app) -> "Exchange":
        asyncio.run(app(self.scope, self.receive, self.send))
        return self

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])
