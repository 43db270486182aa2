"""The images that raised the score, as people see them: only if they are kept, and no longer than they may be."""

import asyncio
import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tta_server.calls import noise
from tests.tta_server.test_drift_api import clean, drifted, serving, show

KEPT = {"drift": {"keep_images": 3}}


def pixels(kept: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(kept["png"])))).transpose(2, 0, 1)


def test_the_last_strange_images_are_kept_with_both_answers_until_a_reset_and_on_no_disk(tmp_path: Path):
    async def watched() -> dict:
        seen, spoilt = {}, drifted(128)
        async with serving(tmp_path, **KEPT) as client:

            async def strange(stream: str) -> list[dict]:
                return (await client.get(f"/v1/streams/{stream}/strange")).raise_for_status().json()["images"]

            await show(client, "frozen", clean(64))
            seen["calm"] = await strange("frozen")
            await show(client, "frozen", spoilt)
            await show(client, "frozen", noise(16))
            await show(client, "camera", spoilt)
            while not (await client.get("/v1/streams/camera/drift")).json()["learnt"]["rows"]:
                await asyncio.sleep(0.01)
            seen |= {"frozen": await strange("frozen"), "camera": await strange("camera"), "spoilt": spoilt}
            for name in ("frozen", "camera"):
                (await client.post(f"/v1/streams/{name}/reset", json={"reason": "x"})).raise_for_status()
            seen["reset"] = await strange("frozen") + await strange("camera")
            await show(client, "frozen", spoilt)
        async with serving(tmp_path, **KEPT) as client:
            seen["restarted"] = (await client.get("/v1/streams/frozen/strange")).json()["images"]
        async with serving(tmp_path) as client:
            seen["off"] = await client.get("/v1/streams/frozen/strange")
        return seen

    seen = asyncio.run(watched())

    assert len(seen["calm"]) <= 3  # one in a hundred source images is as strange
    assert (len(seen["frozen"]), len(seen["camera"])) == (3, 3)
    for kept, sent in zip(seen["frozen"], noise(16)[::-1], strict=False):
        np.testing.assert_array_equal(pixels(kept), sent)
    assert all(any((pixels(kept) == sent).all() for sent in seen["spoilt"]) for kept in seen["camera"])
    for kept in seen["frozen"] + seen["camera"]:
        assert kept["distance"] > 1
        assert kept["source"]["label"]
    assert [kept["learnt"] is None for kept in seen["frozen"]] == [True] * 3
    assert all(kept["learnt"]["label"] for kept in seen["camera"])
    assert seen["reset"] == seen["restarted"] == []
    assert (seen["off"].status_code, "drift.keep_images is 0" in seen["off"].json()["error"]) == (501, True)
