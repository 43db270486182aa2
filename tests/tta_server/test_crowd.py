"""One stream cannot reach another, and nobody the model, however many callers there are."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import numpy as np

from tests.server import running
from tests.tta_server import calls
from tests.tta_server.calls import PATIENCE_S, UNGUARDED, infer, said, stream, until
from tests.tta_server.runtime.fakes import rows, submit, tiny
from tta_server.app import build
from tta_server.models import Model, Preprocess
from tta_server.runtime.job import Answer
from tta_server.settings_file import load_settings

ROWS = 4
CONFIG = {
    "model": {"device": "cpu"},
    "adapter": {"name": "tent", "settings": {"lr": 0.02}},
    # Every request fills a forward, so that all forwards have one shape and answers can be compared bit for bit.
    "engine": {"max_rows": ROWS, "max_queue_rows": 4096, "window_rows": 2 * ROWS, "stack_rows": 0, "learn_share": 1},
    "guard": UNGUARDED,
    "streams": {"named": {"frozen": {"mode": "off"}}},
}


def glyph_images(start: int, count: int = ROWS) -> np.ndarray:
    return calls.glyph_images(start, count)


def gentle_answers(client: httpx.Client) -> list:
    """Send one stream's requests in sequence, each after the learning that the last one caused."""
    answers = []
    for i in range(10):
        answers.append(said(infer(client, "gentle", glyph_images(200 + ROWS * i))))
        until(lambda i=i: stream(client, "gentle")["steps"] == (i + 1) // 2)
    return answers


def frozen_answers(url: str, number: int) -> list:
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        return [said(infer(client, "frozen", glyph_images(ROWS * (2 * number + i)))) for i in range(2)]


def adapt_hard(url: str, number: int) -> int:
    rng = np.random.default_rng(number)
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        versions = [
            infer(client, "hard", rng.integers(0, 256, (ROWS, 3, 32, 32), np.uint8))["parameters"]["state_version"]
            for _ in range(3)
        ]
    return max(versions)


def test_64_clients_that_make_one_stream_adapt_hard_change_no_answer_of_the_others(tmp_path):
    (tmp_path / "quiet").mkdir()
    with running(tmp_path / "quiet", CONFIG) as quiet:
        expected_frozen = [frozen_answers(quiet.url, number) for number in range(24)]
        expected_gentle = gentle_answers(quiet.client)

    with running(tmp_path, CONFIG) as crowded, ThreadPoolExecutor(64) as pool:
        hard = [pool.submit(adapt_hard, crowded.url, number) for number in range(40)]
        frozen = [pool.submit(frozen_answers, crowded.url, number) for number in range(24)]
        gentle = gentle_answers(crowded.client)
        versions = [future.result(PATIENCE_S) for future in hard]
        answers = [future.result(PATIENCE_S) for future in frozen]
        summary = stream(crowded.client, "hard")

        assert crowded.client.get("/v2/health/ready").status_code == 200
    assert max(versions) > 5
    assert summary["images"] == 40 * 3 * ROWS
    assert answers == expected_frozen
    assert gentle == expected_gentle
    assert gentle[-1][1] == {"stream": "gentle", "state_version": 4, "adapted": True}


async def ten_thousand_requests() -> None:
    backbone = tiny()
    model = Model(backbone, Preprocess((8, 8)), ("a", "b", "c", "d"))
    settings = load_settings(
        None,
        {
            "adapter": {"name": "tent", "settings": {"lr": 0.1}},
            "engine": {"max_rows": 16, "max_queue_rows": 1000, "window_rows": 16},
            "streams": {"named": {"frozen": {"mode": "off"}, "lab": {"mode": "inline"}}, "duplicate_memory": 0},
            "guard": UNGUARDED,
        },
    )
    service, probe = build(settings, model), rows(1, 99)
    names = ["hard", "frozen", "gentle", "hard", "lab"]

    transport = httpx.ASGITransport(service.app)
    async with service.app.router.lifespan_context(service.app):
        before = submit(service.served.engine, "frozen", probe).result(PATIENCE_S)
        for start in range(0, 10_000, 500):
            waiting: list[Future[Answer]] = []
            for i in range(start, start + 500):
                waiting.append(
                    submit(service.served.engine, names[i % 5], rows(2 if names[i % 5] == "lab" else 1, i % 97))
                )
            assert all(np.isfinite(future.result(PATIENCE_S).probabilities).all() for future in waiting)
        after = submit(service.served.engine, "frozen", probe).result(PATIENCE_S)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            streams = (await client.get("/v1/streams")).json()["streams"]
            ready = (await client.get("/v2/health/ready")).status_code

    assert ready == 200
    assert backbone.digest() == backbone.spec.digest
    assert np.array_equal(before.probabilities, after.probabilities)
    steps = {each["name"]: each["steps"] for each in streams}
    assert steps["lab"] == 2000
    assert min(steps["hard"], steps["gentle"]) > 10
    assert steps["frozen"] == 0


def test_after_ten_thousand_requests_the_backbone_is_bitwise_what_it_was():
    asyncio.run(ten_thousand_requests())
