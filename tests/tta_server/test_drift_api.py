"""What a person sees who asks whether a stream drifts."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import jsonschema
import numpy as np
import pytest

from tests.tta_server.calls import FRESH, INFER, body
from tta_server.app import build
from tta_server.models import glyphs, load
from tta_server.settings_file import load_settings

ROWS = 16
REASONS = {"entropy_ratio", "energy_shift_sigmas", "feature_distance_ratio"}


@asynccontextmanager
async def serving(folder: Path, **sections: dict) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a server in this process that keeps its streams in a folder; 'frozen' learns nothing."""
    config = {"streams": {"named": {"frozen": {"mode": "off"}}}, "storage": {"url": str(folder), "save_every_s": 0}}
    app = build(load_settings(None, config | sections), load("glyphs")).app
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


def clean(count: int) -> np.ndarray:
    return glyphs.images("test")[0][-count:]


def drifted(count: int) -> np.ndarray:
    """Return images under noise (count, 3, 32, 32), bytes."""
    images = glyphs.images("test")[0][:count]
    return np.clip(images + np.random.default_rng(0).normal(0, 60, images.shape), 0, 255).astype(np.uint8)


async def show(client: httpx.AsyncClient, stream: str, images: np.ndarray) -> None:
    for start in range(0, len(images), ROWS):
        content = body(images[start : start + ROWS])
        (await client.post(INFER, content=content, headers={"X-Stream-Id": stream})).raise_for_status()


async def about(client: httpx.AsyncClient, stream: str) -> dict:
    answer = await client.get(f"/v1/streams/{stream}/drift")
    assert answer.is_success, answer.text
    return answer.json()


async def states(client: httpx.AsyncClient, stream: str) -> list[str]:
    """Return the states that the metrics say a stream is in."""
    found = re.findall(
        r"^tta_drift_state{(.*)} 1\.0$", (await client.get("/metrics", headers=FRESH)).text, re.MULTILINE
    )
    labels = [dict(re.findall(r'(\w+)="([^"]*)"', each)) for each in found]
    return [each["state"] for each in labels if each["stream"] == stream]


def test_a_person_learns_whether_a_stream_drifts_since_when_and_why_until_it_is_reset_or_gone(tmp_path):
    async def watched() -> dict:
        seen = {}
        async with serving(tmp_path) as client:
            for stream in ("camera", "frozen"):
                await show(client, stream, clean(128))
                seen[f"calm {stream}"] = (await about(client, stream))["state"]
                await show(client, stream, drifted(256))
            while not (await about(client, "camera"))["learnt"]["rows"]:
                await asyncio.sleep(0.01)
            seen["series"] = await states(client, "camera") + await states(client, "frozen")
            seen |= {stream: await about(client, stream) for stream in ("camera", "frozen")}
            seen["document"] = (await client.get("/openapi.json")).json()
            seen["domain"] = await client.get("/v1/streams/camera@1/drift")
            seen["audited"] = (await client.get("/v1/streams/frozen/audit")).json()["entries"]
            (await client.post("/v1/streams/camera/reset", json={"reason": "x"})).raise_for_status()
            seen["forgotten"], seen["forgotten series"] = await about(client, "camera"), await states(client, "camera")
        async with serving(tmp_path) as client:
            seen["again"] = await about(client, "frozen")
            (await client.delete("/v1/streams/frozen")).raise_for_status()
            seen["gone"] = await client.get("/v1/streams/frozen/drift")
            seen["metrics"] = (await client.get("/metrics")).text
        return seen

    seen = asyncio.run(watched())
    camera, frozen, forgotten, document = (seen[name] for name in ("camera", "frozen", "forgotten", "document"))

    schema = {"$ref": "#/components/schemas/DriftAbout", "components": document["components"]}
    for each in (camera, frozen, forgotten, seen["again"]):
        jsonschema.validate(each, schema)
    assert (seen["calm camera"], seen["calm frozen"], *seen["series"]) == ("stable", "stable", "drift", "drift")
    assert (camera["because"], camera["style"]["away"], camera["missing"]) == ("style", True, "")
    assert camera["style"]["distance"] > camera["style"]["limit"]
    assert [each["id"] for each in camera["domains"] if each["current"]] == ["camera@1"]
    assert camera["learnt"]["layers"][0]["w2"] >= camera["learnt"]["layers"][-1]["w2"]
    assert frozen["style"]["away"] is False
    assert frozen["because"] in REASONS
    assert "the look of images is not judged" in frozen["missing"]
    assert [window["state"] for window in frozen["history"]] == [
        "stable",
        "stable",
        "stable",
        "warning",
        "drift",
        "drift",
    ]
    assert frozen["since"] == frozen["history"][2]["time"], "since the first strange window, not since the alarm"
    assert frozen["evidence_decades"] >= frozen["evidence_of_drift"] == pytest.approx(5)
    strange = {score["name"]: score for score in frozen["scores"]}
    assert abs(strange[frozen["because"]]["z"]) > 5
    assert strange[frozen["because"]]["p"] < 1e-3
    assert frozen["estimated_accuracy"]["adapted"] is None
    assert (seen["audited"][0]["verdict"], seen["audited"][0]["extra"]["state"]) == ("drift", "drift")
    assert seen["domain"].status_code == 400
    assert "name its stream, 'camera'" in seen["domain"].json()["error"]
    assert (forgotten["state"], forgotten["history"], seen["forgotten series"]) == ("unknown", [], ["unknown"])
    assert seen["again"] == frozen, "a restart forgets nothing of it"
    assert seen["gone"].status_code == 404
    assert 'stream="frozen"' not in seen["metrics"]


def test_where_nobody_watches_the_answer_says_so(tmp_path):
    async def asked() -> httpx.Response:
        async with serving(tmp_path, drift={"enabled": False}) as client:
            await show(client, "camera", clean(ROWS))
            return await client.get("/v1/streams/camera/drift")

    answer = asyncio.run(asked())

    assert answer.status_code == 501
    assert "drift.enabled is false" in answer.json()["error"]
