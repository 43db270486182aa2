"""Who reads the audit log: few at once, and those count until they have read."""

import asyncio
import errno
import threading

import httpx

from tests.tta_server.api.test_faults import PATIENCE_S, make

READING = 4


def test_what_was_just_done_is_told_though_it_cannot_be_written(tmp_path, monkeypatch):
    service = make(tmp_path)
    audit, append = service.served.storage.audit, service.served.storage.audit.append

    def full(_lines: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def send() -> list[dict]:
        transport = httpx.ASGITransport(service.app)
        async with (
            service.app.router.lifespan_context(service.app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            for name in ("door", "gate"):
                assert (await client.post("/v1/streams", json={"name": name, "mode": "off"})).status_code == 201
            found = [(await client.get("/v1/audit")).json()]
            monkeypatch.setattr(audit, "append", full)
            for mode in ("shadow", "off"):
                answer = await client.patch("/v1/streams/door", json={"mode": mode, "reason": "covered lens"})
                assert answer.status_code == 200
            for path in ("/v1/audit", "/v1/streams/door/audit", "/v1/streams/door/audit?limit=1"):
                found.append((await client.get(path)).json())
            monkeypatch.setattr(audit, "append", append)
            return [*found, (await client.get("/v1/audit")).json()]

    before, *waiting, after = asyncio.run(send())

    assert (len(before["entries"]), before["unwritten"], after["unwritten"]) == (2, 0, 0)
    assert [each["unwritten"] for each in waiting] == [2, 2, 1]
    assert waiting[0] == after | {"unwritten": 2}
    assert [line["stream"] for line in waiting[1]["entries"]] == ["door"] * 3
    assert waiting[2]["entries"] == waiting[1]["entries"][:1]


def test_of_many_who_read_the_log_at_once_few_are_let_in_and_count_until_they_have_read(tmp_path, monkeypatch):
    service, goes_on = make(tmp_path), threading.Event()
    monkeypatch.setattr(service.served.storage.audit, "newest", lambda *_: goes_on.wait(PATIENCE_S) and [])
    monkeypatch.setattr("tta_server.api.patience._WITHIN_S", 0.5)

    async def send() -> tuple[list[int], int, int]:
        transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
        async with (
            service.app.router.lifespan_context(service.app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):

            async def ask() -> int:
                return (await client.get("/v1/audit")).status_code

            at_once = await asyncio.gather(*(ask() for _ in range(40)))
            meanwhile = await ask()  # the four were told that the storage says nothing; it was asked, though
            goes_on.set()
            async with asyncio.timeout(PATIENCE_S):
                while (later := await ask()) == 429:
                    await asyncio.sleep(0.01)
            return at_once, meanwhile, later

    at_once, meanwhile, later = asyncio.run(send())

    assert (at_once.count(429), at_once.count(500)) == (40 - READING, READING)
    assert (meanwhile, later) == (429, 200)
