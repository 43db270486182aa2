"""What holds for every stream whatever callers and operators do, over HTTP."""

import asyncio
import gc
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.server import Running, running
from tests.tta_server.calls import (
    INFER,
    PATIENCE_S,
    UNGUARDED,
    balance,
    body,
    calling,
    digest,
    glyph_images,
    infer,
    metric,
    noise,
    pages,
    said,
    settled,
    stream,
    until,
)
from tests.tta_server.pictures import encoded, png, scene
from tests.tta_server.runtime.fakes import rows, submit, tiny
from tta_server.app import Service, build
from tta_server.models import Model, Preprocess
from tta_server.runtime.commands.desk import Who
from tta_server.settings_file import load_settings
from tta_server.streams.stream import Stream

ROWS = 4
CONFIG = {
    "model": {"device": "cpu"},
    "adapter": {"name": "tent", "settings": {"lr": 0.02}},
    # A request fills a forward and a window: answers can be compared bit for bit, and each is followed by a step.
    "engine": {"max_rows": ROWS, "window_rows": ROWS, "stack_rows": 0, "learn_share": 1},
    "streams": {"named": {"frozen": {"mode": "off"}}, "duplicate_memory": 4096},
    "limits": {"max_body_bytes": 2**20},
    "guard": UNGUARDED,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    """A server whose streams learn from every request of 4 images."""
    with running(tmp_path_factory.mktemp("invariants"), CONFIG) as started:
        yield started


@pytest.fixture
def client(server: Running) -> httpx.Client:
    return server.client


def teach(client: httpx.Client, name: str, images: np.ndarray) -> tuple[list, dict]:
    """Ask, wait until that has been learnt from, and return what was answered."""
    answer = infer(client, name, images)
    settled(client, name, ROWS)
    return said(answer)


# 1: bad images
GREY = np.full((1, 3, 32, 32), 7, np.uint8)
GOOD = noise(1, 99)
HUGE = encoded(Image.new("L", (5000, 4000)))


def with_text(text: bytes) -> bytes:
    return body(GREY, datatype="FP32").replace(b'"data":[7,', b'"data":[' + text + b",")


BAD = {
    "nan": (INFER, with_text(b"NaN"), 400),
    "infinite": (INFER, with_text(b"1e999"), 400),
    "out of range": (INFER, body(GREY, datatype="FP32"), 400),
    "constant": (INFER, body(GREY), 400),
    "constant beside good ones": (INFER, body(np.concatenate([GOOD, GREY, GOOD])), 400),
    "constant file": ("/predict", encoded(Image.new("RGB", (40, 30), (9, 200, 3))), 400),
    "too many pixels": ("/predict", HUGE, 413),
    "too many bytes": ("/predict", bytes(2**20 + 1), 413),
    "undecodable": ("/predict", b"no image", 415),
    "truncated": ("/predict", encoded(scene(), "JPEG")[:500], 400),
    "truncated beside good ones": ("/predict", [png(), encoded(scene(), "JPEG")[:500], png()], 400),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_changes_no_state_of_any_stream_and_no_later_answer(client, kind):
    path, content, status = BAD[kind]
    names = [f"plain-{kind.replace(' ', '-')}", f"beside-{kind.replace(' ', '-')}"]
    for name in names:
        teach(client, name, glyph_images(0, ROWS))
        infer(client, name, glyph_images(50, 1))  # something waits to be learnt from
    before = list(pages(client)), [digest(client, name) for name in names]

    headers = {"X-Stream-Id": names[1]}
    if isinstance(content, list):
        files = [("image", (f"{place}.png", file)) for place, file in enumerate(content)]
        response = client.post(path, files=files, headers=headers)
    else:
        response = client.post(path, content=content, headers=headers)

    assert response.status_code == status, response.text
    assert response.json()["code"] == ("constant_image" if "constant" in kind else response.json()["code"])
    assert (list(pages(client)), [digest(client, name) for name in names]) == before
    plain, beside = ([teach(client, name, glyph_images(60 + ROWS * i, ROWS))[0] for i in range(3)] for name in names)
    assert plain == beside
    assert digest(client, names[0]) == digest(client, names[1])


def test_bad_requests_at_the_same_time_change_no_good_request(client, server):
    alone = [teach(client, "alone", glyph_images(200 + ROWS * i, ROWS)) for i in range(6)]

    def misbehave(number: int) -> set[int]:
        statuses = set()
        with calling(server.url) as own:
            for path, content, _ in list(BAD.values())[number % 3 :: 3] * 3:
                if isinstance(content, bytes):
                    response = own.post(path, content=content, headers={"X-Stream-Id": "crowded"})
                    statuses.add(response.status_code)
        return statuses

    with ThreadPoolExecutor(3) as pool:
        bad = [pool.submit(misbehave, number) for number in range(3)]
        crowded = [teach(client, "crowded", glyph_images(200 + ROWS * i, ROWS)) for i in range(6)]
        statuses = set().union(*(future.result(PATIENCE_S) for future in bad))

    assert statuses <= {400, 413, 415}
    assert [answer for answer, _ in crowded] == [answer for answer, _ in alone]
    assert digest(client, "crowded") == digest(client, "alone")
    assert balance(client, "crowded") == (6 * ROWS, 6 * ROWS)


# 2: other streams
def test_what_anybody_does_to_one_stream_changes_neither_answers_nor_state_of_another(client):
    def attack(turn: int) -> None:
        teach(client, "mallory", noise(ROWS, turn))
        client.post("/v1/streams/mallory/evict")
        client.patch("/v1/streams/mallory", json={"adapter": {"name": "tent", "settings": {"lr": 0.5 + turn}}})
        taken = client.post("/v1/streams/mallory/snapshots").json()["id"]
        teach(client, "mallory", noise(ROWS, 100 + turn))
        client.post("/v1/streams/mallory/restore", json={"snapshot": taken, "reason": "x"}).raise_for_status()
        client.post("/v1/streams/mallory/rollback", json={"version": 1, "reason": "x"})
        client.patch("/v1/streams/mallory", json={"adapter": {"name": "bn"}}).raise_for_status()
        client.post("/predict", content=b"junk", headers={"X-Stream-Id": "mallory"})
        client.post("/v1/streams/mallory/reset").raise_for_status()
        if turn % 2:
            client.delete("/v1/streams/mallory").raise_for_status()

    def life(name: str, between: bool) -> list:
        answers = []
        for turn in range(6):
            answers.append(teach(client, name, glyph_images(300 + ROWS * turn, ROWS))[0])
            if between:
                attack(turn)
        return answers

    infer(client, "frozen", noise(1))
    alone, beside = life("alice-alone", False), life("alice-beside", True)

    assert alone == beside
    assert digest(client, "alice-alone") == digest(client, "alice-beside")
    assert digest(client, "alice-alone") != digest(client, "frozen")


# 9: going back
def test_a_rollback_gives_exactly_the_answers_of_that_version_and_a_reset_exactly_those_of_the_frozen_model(client):
    probe = noise(1, 7)
    answers = {0: infer(client, "back", probe)["outputs"]}  # the probe waits in the window once, and is known since
    digests = {}
    for version in range(1, 6):
        teach(client, "back", glyph_images(400 + ROWS * version, ROWS))
        answer = infer(client, "back", probe)
        assert answer["parameters"]["state_version"] == version
        answers[version], digests[version] = answer["outputs"], digest(client, "back")
    assert len({str(answer) for answer in answers.values()}) == 6

    for version in random.Random(0).sample(range(1, 6), 5):
        asked = {"version": version, "reason": "as it was"}
        client.post("/v1/streams/back/rollback", json=asked).raise_for_status()
        assert infer(client, "back", probe)["outputs"] == answers[version]
        assert digest(client, "back") == digests[version]

    client.post("/v1/streams/back/reset").raise_for_status()
    assert infer(client, "back", probe)["outputs"] == infer(client, "frozen", probe)["outputs"] == answers[0]
    assert digest(client, "back") == digest(client, "frozen")


# 11: every image is accounted for
def test_every_offered_image_is_learnt_from_dropped_or_waiting_after_whatever_happened(client):
    for turn in range(4):
        infer(client, "books", glyph_images(500 + 3 * turn, 3))
        infer(client, "books", glyph_images(500 + 3 * turn, 3))  # duplicates
        settled(client, "books", ROWS)
    client.post("/v1/streams/books/reset").raise_for_status()
    infer(client, "books", noise(3, 3))
    infer(client, "books", noise(3, 4))
    client.patch("/v1/streams/books", json={"adapter": {"name": "bn"}}).raise_for_status()
    infer(client, "books", noise(2, 5))
    client.patch("/v1/streams/books", json={"mode": "inline"}).raise_for_status()
    infer(client, "books", noise(2, 6))
    client.patch("/v1/streams/books", json={"mode": "off"}).raise_for_status()
    infer(client, "books", noise(2, 7))

    about = stream(client, "books")
    offered, accounted = balance(client, "books")

    assert offered == accounted == 24 + 3 + 3 + 2 + 2
    assert about["images"] == offered + 2
    assert (about["dropped"]["duplicate"], about["dropped"]["reset"] > 0) == (12, True)


# 14: many streams
def small(**streams: object) -> Service:
    """Return a server of a tiny network, in this process."""
    model = Model(tiny(), Preprocess((8, 8)), ("a", "b", "c", "d"))
    return build(load_settings(None, {"streams": streams, "guard": UNGUARDED, "engine": {"window_rows": 4}}), model)


def alive() -> list[Stream]:
    """Return every stream that is in memory."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Stream)]


async def ten_thousand_streams() -> None:
    others = alive()  # of servers of other tests
    service, count, labelled = small(max_streams=10_000, max_labelled=20), 10_000, 20
    transport = httpx.ASGITransport(service.app)

    async def series(client: httpx.AsyncClient) -> list[str]:
        text = (await client.get("/metrics")).text
        return [line.split(" ")[0] for line in text.splitlines() if "stream=" in line]

    async with (
        service.app.router.lifespan_context(service.app),
        httpx.AsyncClient(transport=transport, base_url="http://server") as client,
    ):
        for start in range(0, count, 500):
            asked = [
                submit(service.served.engine, f"s{number}", rows(1, number)) for number in range(start, start + 500)
            ]
            for future in asked:
                future.result(PATIENCE_S)
        full, per_stream = await series(client), len({each for each in await series(client) if 'stream="s0"' in each})
        late = await client.post("/predict", content=png(), headers={"X-Stream-Id": "one-more"})
        known = await client.post("/predict", content=png(), headers={"X-Stream-Id": "s9999"})
        await client.post("/v1/streams/s0/reset")
        reset = [each for each in await series(client) if 'stream="s0"' in each]
        for number in range(10):
            assert (await client.delete(f"/v1/streams/s{number}")).status_code == 204
        rest = [f"s{number}" for number in range(10, count)]
        service.served.engine.command(lambda c: [c.delete(name, Who("test")) for name in rest]).result(PATIENCE_S)
        left, listed = await series(client), (await client.get("/v1/streams")).json()
        state_bytes = [line for line in (await client.get("/metrics")).text.splitlines() if "tta_state_bytes{" in line]
        not_gone = {id(each) for each in alive()} - {id(each) for each in others}

    assert len(full) <= (labelled + 1) * per_stream
    assert len({each.split('stream="')[1].split('"')[0] for each in full}) == labelled + 1
    assert (late.status_code, known.status_code) == (429, 200)
    said = {each.split("{")[0] for each in full if 'stream="s0"' in each}
    assert said - {each.split("{")[0] for each in reset} == {"tta_predictive_entropy_ratio", "tta_confidence_ratio"}
    assert {each.split('stream="')[1].split('"')[0] for each in left} == {"_other"}
    assert listed == {"streams": [], "next": None, "replica": ""}
    assert [float(line.split()[-1]) for line in state_bytes] == [0, 0, 0]
    assert not not_gone


def test_ten_thousand_streams_make_a_bounded_number_of_series_and_leave_nothing_when_deleted():
    asyncio.run(ten_thousand_streams())


# 19: one stream, many callers
class Heard(NamedTuple):
    """An answer, as its caller heard it."""

    seed: int
    version: int
    outputs: list


def test_many_callers_of_one_stream_see_versions_that_grow_by_one_and_name_the_state_that_answered(client, server):
    callers, requests, name = 8, 12, "shared"

    def call(caller: int) -> list[Heard]:
        heard = []
        with calling(server.url) as own:
            for number in range(requests):
                seed = 1000 + caller * requests + number
                answer = infer(own, name, noise(ROWS, seed))
                heard.append(Heard(seed, answer["parameters"]["state_version"], answer["outputs"]))
        return heard

    with ThreadPoolExecutor(callers) as pool:
        histories = [future.result(PATIENCE_S) for future in [pool.submit(call, caller) for caller in range(callers)]]
    about = settled(client, name, ROWS)

    for heard in histories:
        versions = [each.version for each in heard]
        assert versions == sorted(versions)
    assert about["state_version"] == about["steps"] == about["images_learnt"] // ROWS
    assert about["versions_kept"] == list(range(1, about["steps"] + 1))
    assert all(line["version_after"] - line["version_before"] == 1 for line in about["verdicts"])
    everything = [each for heard in histories for each in heard]
    assert {each.version for each in everything} <= set(range(about["steps"] + 1))
    # The sequential model: each version, put back alone, answers its requests as they were answered. The images are
    # known by now, so that nothing is learnt from them again.
    client.patch(f"/v1/streams/{name}", json={"mode": "after"}).raise_for_status()
    for version in sorted({each.version for each in everything}):
        path, asked = ("rollback", {"version": version, "reason": "check"}) if version else ("reset", {})
        client.post(f"/v1/streams/{name}/{path}", json=asked).raise_for_status()
        for each in [each for each in everything if each.version == version][:4]:
            assert infer(client, name, noise(ROWS, each.seed))["outputs"] == each.outputs


def test_no_image_is_lost_among_many_callers(client):
    until(lambda: metric(client, "tta_queue_depth_images{") == 0)

    for name in [each["name"] for each in pages(client)]:
        settled(client, name, ROWS)
        offered, accounted = balance(client, name)
        assert offered == accounted, name
