"""A server for operators."""

from collections.abc import Iterator

import httpx
import pytest

from tests.server import Running, running
from tests.tta_server.api.operators import CONFIG
from tests.tta_server.calls import names


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    """A server that keeps what it learns."""
    folder = tmp_path_factory.mktemp("streams")
    with running(folder, CONFIG | {"storage": {"url": str(folder / "kept"), "save_every_s": 0.05}}) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    """A client; the streams of a test are gone after it."""
    yield server.client
    server.client.patch("/v1/streams", json={"mode": "configured", "reason": "the test is over"}).raise_for_status()
    for name in names(server.client):
        server.client.delete(f"/v1/streams/{name}").raise_for_status()
