"""A stream's own method is made off the device thread: its guard reads canary images, which takes seconds."""

import asyncio
import threading

import httpx
import pytest

from tests.tta_server.api.test_door import make


@pytest.mark.parametrize(
    ("verb", "path", "body"), [("PATCH", "/v1/streams/door", {}), ("POST", "/v1/streams", {"name": "gate"})]
)
def test_a_method_is_not_made_on_the_device_thread(verb, path, body, monkeypatch):
    service, made = make(), []
    prepare = service.served.methods.prepare

    def watched(section):
        made.append(threading.current_thread().name)
        return prepare(section)

    monkeypatch.setattr(service.served.methods, "prepare", watched)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(service.app)
        async with (
            service.app.router.lifespan_context(service.app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            (await client.post("/v1/streams", json={"name": "door"})).raise_for_status()
            return await client.request(verb, path, json=body | {"adapter": {"name": "tent", "settings": {"lr": 1e-4}}})

    answer = asyncio.run(ask())

    assert answer.is_success, answer.text
    assert made
    assert "device" not in made
