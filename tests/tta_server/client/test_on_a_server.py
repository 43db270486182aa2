"""The client against a real server: what is answered with nothing is done, and None."""

import asyncio

import pytest

from docs import write_answers
from tests.server import running
from tests.tta_server.api.test_domains import CONFIG, domains, met
from tta_server import client
from tta_server.client import AsyncClient, Client, Prepared, ServerError, delete_domain, delete_stream, evict_stream

SILENT = {"delete_domain": delete_domain("door", 1), "evict_stream": evict_stream("door")}
SILENT["delete_stream"] = delete_stream("door")


def test_what_the_server_says_nothing_to_is_none(tmp_path):
    with running(tmp_path, CONFIG | {"storage": {"url": str(tmp_path / "kept")}}) as server:
        document = server.client.get("/openapi.json").json()

        async def awaited(asked: Prepared) -> object:
            async with AsyncClient(server.url) as there:
                return await there.ask(asked)

        def at_once(asked: Prepared) -> object:
            with Client(server.url) as there:
                return there.ask(asked)

        for ask in (at_once, lambda asked: asyncio.run(awaited(asked))):
            met(server.client)
            for name, asked in SILENT.items():
                assert ask(asked) is None, name
                assert name != "delete_domain" or len(domains(server.client, "door")) == 1
            with pytest.raises(ServerError, match="unknown stream"):
                ask(client.read_stream("door"))
            with pytest.raises(ServerError, match="400: nothing to change; give 'mode', 'adapter' or both"):
                ask(client.change_stream("door"))

    known = write_answers.asked_by_the_client(document)
    assert set(SILENT) == {name for name, (_, _, about) in known.items() if "204" in about["responses"]}
