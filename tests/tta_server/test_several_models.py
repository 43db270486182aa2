"""Several models need nothing but more entries in the mapping of what is served."""

import asyncio
import logging
import resource
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.tta_server.calls import UNGUARDED, body, noise
from tests.tta_server.pictures import png
from tests.tta_server.runtime.fakes import SHAPE, tiny
from tta_server.app import build, make_app, open_storage
from tta_server.models import Model, Preprocess
from tta_server.runtime.assemble import make_served
from tta_server.runtime.roster import Roster
from tta_server.runtime.served import FINISH_S, Served
from tta_server.settings_file import load_settings
from tta_server.storage.keeper import Keeper

log = logging.getLogger(__name__)

LABELS = {"letters": ("a", "b", "c", "d"), "animals": ("cat", "dog", "hen", "owl")}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)


def memory_mib() -> int:
    """Return the memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, Served]]]:
    """Yield a client of a server with two models, and what is served."""
    settings = load_settings(None, {"guard": UNGUARDED, "engine": {"max_rows": 4, "max_queue_rows": 4}})
    served = {
        name: make_served(name, Model(tiny(), Preprocess(SHAPE[1:]), labels), settings, open_storage(settings.storage))
        for name, labels in LABELS.items()
    }
    app = make_app(Roster(served), settings)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client, served


def test_each_model_answers_under_its_name_and_the_first_where_none_is_named():
    async def answers() -> tuple[list[dict], dict, httpx.Response]:
        async with serving() as (client, _):
            named = [await client.post(f"/v2/models/{name}/infer", content=body(IMAGES)) for name in LABELS]
            plain = await client.post("/predict", content=png())
            return [each.json() for each in named], plain.json(), await client.get("/v2/models")

    named, plain, models = asyncio.run(answers())

    assert models.json() == {"models": ["letters", "animals"]}
    assert [each["model_name"] for each in named] == ["letters", "animals"]
    assert all(set(each["outputs"][1]["data"]) <= set(LABELS[each["model_name"]]) for each in named)
    assert named[0]["outputs"][0]["data"] == named[1]["outputs"][0]["data"]  # it is the same network
    assert (plain["model"], plain["predictions"][0]["label"] in LABELS["letters"]) == ("letters", True)


def test_a_model_that_is_full_refuses_and_the_other_answers():
    async def statuses() -> list[int]:
        async with serving() as (client, served):
            with served["animals"].engine.reserve(4, 1):
                return [
                    (await client.post(f"/v2/models/{name}/infer", content=body(IMAGES))).status_code for name in LABELS
                ]

    assert asyncio.run(statuses()) == [200, 429]


def test_metrics_are_counted_for_the_model_that_was_asked():
    async def text() -> str:
        async with serving() as (client, _):
            for path in (
                "/v2/models/animals/infer",
                "/v2/models/animals/versions/1/infer",
                "/predict",
                "/v2/models/x/infer",
            ):
                await client.post(path, content=body(IMAGES))
            return (await client.get("/metrics")).text

    found = asyncio.run(text()).splitlines()

    assert 'tta_requests_total{model="animals",outcome="ok"} 2.0' in found
    assert 'tta_requests_total{model="letters",outcome="ok"} 0.0' in found
    assert 'tta_requests_total{model="letters",outcome="rejected"} 1.0' in found  # no image; no such model is nobody's
    assert 'tta_images_total{model="animals",stream="default"} 4.0' in found


@pytest.mark.parametrize("broken", ["letters", "animals"])
def test_a_server_is_as_well_as_the_worst_of_its_models(broken):
    async def told() -> tuple[list[int], list[int]]:
        paths = ["/v2/health/ready", *(f"/v2/models/{name}/ready" for name in LABELS)]
        async with serving() as (client, served):
            before = [(await client.get(path)).status_code for path in paths]
            served[broken].engine.stop()
            return before, [(await client.get(path)).status_code for path in paths]

    before, after = asyncio.run(told())

    assert before == [200, 200, 200]
    assert after == [503, *(503 if name == broken else 200 for name in LABELS)]


def test_models_are_stopped_side_by_side_and_the_storage_has_what_time_the_answers_leave(monkeypatch):
    together, close, given = threading.Barrier(len(LABELS)), Keeper.close, []

    def closes(keeper: Keeper, timeout_s: float) -> bool:
        given.append(timeout_s)
        together.wait(60)  # as two that hang: none is waited for before the next is begun
        return close(keeper, timeout_s)

    async def stopped() -> None:
        async with serving():
            monkeypatch.setattr(Keeper, "close", closes)

    asyncio.run(stopped())

    assert len(given) == len(LABELS)
    assert all(each <= FINISH_S for each in given)


def test_a_stop_does_not_wait_for_ever_until_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr("tta_server.runtime.roster.FINISH_S", 0.01)

    async def stopped() -> list[bool]:
        async with serving() as (_, served):
            models = Roster(served)
            with models._changing:
                await asyncio.to_thread(models.stop)
            return [each.finished.is_set() for each in served.values()]

    assert asyncio.run(stopped()) == [True, True]


def test_an_unknown_model_is_told_which_there_are():
    async def refused() -> httpx.Response:
        async with serving() as (client, _):
            return await client.get("/v2/models/nobody")

    response = asyncio.run(refused())

    assert response.status_code == 404
    assert response.json()["error"] == "unknown model 'nobody'; GET /v2/models lists those that you may ask"


def test_a_model_comes_and_goes_while_another_answers_and_no_request_that_was_taken_fails(tmp_path, cycles, caplog):
    caplog.set_level(logging.WARNING, "httpx")  # a line for each request would be kept, and counted as memory
    url = str(tmp_path / "kept")
    settings = load_settings(None, {"guard": UNGUARDED, "domains": {"max": 1}, "storage": {"url": url}})

    def made(name: str, folder: str) -> Served:
        storage = open_storage(settings.storage.model_copy(update={"url": f"{url}/{folder}"}))
        return make_served(name, Model(tiny(), Preprocess(SHAPE[1:]), LABELS[name]), settings, storage)

    async def statuses() -> tuple[Counter[int], Counter[int], list[dict], dict]:
        makers = {"animals": lambda: made("animals", "animals")}
        models = Roster({"letters": made("letters", "letters"), "animals": makers["animals"]()}, makers)
        app = make_app(models, settings)
        transport = httpx.ASGITransport(app)
        other, own, steady = Counter(), Counter(), asyncio.Event()

        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):

            async def ask(name: str, found: Counter[int]) -> None:
                while not steady.is_set():
                    response = await client.post(f"/v2/models/{name}/infer", content=body(IMAGES))
                    found[response.status_code] += 1
                    if response.status_code != 200:  # in the same process it waits for nothing, and keeps the rest from
                        await asyncio.sleep(0.01)  # its work: thousands of them, in place of a model that is loaded
                    assert response.status_code != 503 or "unloaded" in response.text, response.text

            asking = [asyncio.ensure_future(ask(*each)) for each in (("letters", other), ("animals", own))]
            for _ in range(cycles):
                held_mib.append(memory_mib())
                for verb in ("unload", "unload", "load", "load"):
                    (await client.post(f"/v2/repository/models/animals/{verb}")).raise_for_status()
            steady.set()
            await asyncio.gather(*asking)
            await client.post("/v2/repository/models/animals/unload")
            index = (await client.post("/v2/repository/index")).json()
            kept = (await client.get("/v1/streams/default")).json()
            return other, own, index, kept

    held_mib: list[int] = []
    other, own, index, kept = asyncio.run(statuses())

    log.info("%d cycles; answers of the other %s, its own %s; MiB before each %s", cycles, other, own, held_mib)
    assert set(other) == {200}
    assert set(own) <= {200, 404, 503}
    if cycles >= 50:  # both grow at first: streams fill their windows, and the allocator its heaps
        assert max(held_mib[-10:]) < max(held_mib[10:20]) + 10
    assert {each["name"]: each["state"] for each in index} == {"letters": "READY", "animals": "UNAVAILABLE"}
    assert kept["images"] > 0


def test_what_a_model_had_learnt_is_there_when_it_is_loaded_again(tmp_path):
    config = {"storage": {"url": str(tmp_path), "save_every_s": 0}, "guard": UNGUARDED, "domains": {"max": 1}}
    others = {"repository": {"models": {"second": {"architecture": "glyphs"}}}}
    settings = load_settings(None, config | others | {"engine": {"window_rows": 4, "max_rows": 4}})

    async def versions() -> list[int]:
        service = build(settings)
        transport = httpx.ASGITransport(service.app)
        async with (
            service.app.router.lifespan_context(service.app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):

            async def version() -> int:
                answer = await client.post("/v2/models/second/infer", content=body(noise(4)))
                return answer.json()["parameters"]["state_version"]

            while not (learnt := await version()):
                pass
            for verb in ("unload", "load"):
                (await client.post(f"/v2/repository/models/second/{verb}")).raise_for_status()
            return [learnt, await version()]

    found = asyncio.run(versions())

    assert 1 <= found[0] <= found[1]


def test_a_model_that_fails_on_a_full_batch_is_not_loaded_and_may_be_loaded_later(tmp_path, monkeypatch):
    config = {"storage": {"url": str(tmp_path)}, "repository": {"models": {"second": {"architecture": "glyphs"}}}}
    before = {thread.ident for thread in threading.enumerate()}

    def fails(*_: object) -> None:
        raise ValueError("the network cannot answer 64 images")

    async def answers() -> list[httpx.Response]:
        service = build(load_settings(None, config))
        transport = httpx.ASGITransport(service.app)
        service.models.start()  # whoever builds a server may start it before its lifespan begins
        async with (
            service.app.router.lifespan_context(service.app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            await client.post("/v2/repository/models/second/unload")
            with monkeypatch.context() as patch:
                patch.setattr("tta_server.runtime.work.worker.warm_up", fails)
                return [await client.post("/v2/repository/models/second/load") for _ in range(2)] + [
                    await client.post("/v2/models/second/infer", content=body(noise(4))),
                    patch.undo() or await client.post("/v2/repository/models/second/load"),
                ]

    responses = asyncio.run(answers())

    assert [each.status_code for each in responses] == [409, 409, 404, 200]
    assert responses[0].json()["error"] == "model 'second' cannot be loaded: the network cannot answer 64 images"
    assert not [thread for thread in threading.enumerate() if thread.ident not in before and not thread.daemon]


@pytest.mark.parametrize(
    ("path", "sent", "status", "said"),
    [
        ("letters/unload", {}, 409, "stays; stop the server to unload it"),
        ("nobody/load", {}, 404, "unknown model 'nobody'"),
        ("letters/load", {"parameters": {"config": "{}"}}, 400, "parameter 'config' is not taken"),
        ("letters/load", {"parameters": 1}, 400, "'parameters' must be an object"),
    ],
)
def test_what_cannot_be_loaded_or_unloaded_is_refused(path, sent, status, said):
    async def refused() -> httpx.Response:
        async with serving() as (client, _):
            return await client.post(f"/v2/repository/models/{path}", json=sent)

    response = asyncio.run(refused())

    assert (response.status_code, said in response.json()["error"]) == (status, True), response.text
