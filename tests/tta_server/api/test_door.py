"""A request that will be refused is refused before its body is read, on every route for predictions."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.tta_server.calls import UNGUARDED
from tests.tta_server.runtime.fakes import SHAPE, tiny
from tta_server.app import Service, build
from tta_server.models import Model, Preprocess
from tta_server.settings_file import load_settings

ROUTES = ["/predict", "/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer"]


def make() -> Service:
    settings = load_settings(None, {"guard": UNGUARDED, "engine": {"max_rows": 4, "max_queue_rows": 4}})
    return build(settings, Model(tiny(), Preprocess(SHAPE[1:]), ("a", "b", "c", "d")))


async def knock(service: Service, path: str) -> tuple[httpx.Response, int]:
    """Send a body in parts; return the answer, and how many parts were read."""
    read = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(10):
            read += 1
            yield b"{}"

    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://x") as client:
        return await client.post(path, content=parts()), read


@pytest.mark.parametrize("path", ROUTES)
def test_a_full_queue_refuses_before_the_body_is_read(path):
    async def both() -> list[tuple[httpx.Response, int]]:
        service = make()
        async with service.app.router.lifespan_context(service.app):
            with service.served.engine.reserve(4, 1):
                full = await knock(service, path)
            return [full, await knock(service, path)]

    (refused, unread), (wrong, read) = asyncio.run(both())

    assert (refused.status_code, int(refused.headers["Retry-After"]) >= 1, unread) == (429, True, 0)
    assert (wrong.status_code >= 400, wrong.status_code != 429, read) == (True, True, 10)


@pytest.mark.parametrize("path", ROUTES)
def test_a_server_that_is_starting_refuses_before_the_body_is_read(path):
    service = make()
    refused, unread = asyncio.run(knock(service, path))
    service.served.stop()

    assert (refused.status_code, unread) == (503, 0)


def test_every_route_for_predictions_is_looked_at():
    service = make()
    paths = service.app.openapi()["paths"]
    service.served.stop()

    declared = [path for path, verbs in paths.items() if "415" in verbs.get("post", {}).get("responses", {})]
    assert len([path for path in declared if not path.startswith("/v1")]) == len(ROUTES)
