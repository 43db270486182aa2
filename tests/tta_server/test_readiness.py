"""Readiness is honest."""

import asyncio

import httpx
import pytest
import torch

import tta_server.runtime.queue.engine as engine_module
from tests.tta_server.calls import (
    UNGUARDED,
)
from tests.tta_server.pictures import png
from tests.tta_server.runtime.fakes import tiny
from tta_server.app import build
from tta_server.models import Model, Preprocess
from tta_server.settings_file import load_settings


async def readiness(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    monkeypatch.setattr(engine_module, "_INSPECT_EVERY_S", 0.01)
    model = Model(tiny(), Preprocess((8, 8)), ("a", "b", "c", "d"))
    service = build(load_settings(None, {"guard": UNGUARDED}), model)
    transport = httpx.ASGITransport(service.app)
    found = {}
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:

        async def told() -> list:
            ready, live = await client.get("/v2/health/ready"), await client.get("/v2/health/live")
            answer = await client.post("/predict", content=png())
            shown = await client.get("/metrics", headers={"Cache-Control": "no-cache"})
            assert f'tta_ready{{model="tiny"}} {float(ready.status_code == 200)}' in shown.text
            return [ready.status_code, live.status_code, answer.status_code, ready.json().get("error", "")]

        found["starting"] = await told()
        async with service.app.router.lifespan_context(service.app):
            found["started"] = await told()
            with torch.no_grad():
                service.served.model.backbone.weights()["fc.bias"][0] += 1
            while not service.served.engine.trouble():
                await asyncio.sleep(0.01)
            found["damaged"] = await told()
        found["stopped"] = await told()
    return found


def test_a_server_says_that_it_is_ready_exactly_while_good_requests_are_answered(monkeypatch):
    found = asyncio.run(readiness(monkeypatch))

    assert found["starting"] == [503, 200, 503, "the server is starting"]
    assert found["started"] == [200, 200, 200, ""]
    assert found["damaged"] == [503, 503, 503, "the model's weights were damaged in memory; restart the server"]
    assert found["stopped"][:3] == [503, 503, 503]
