"""A home taken from what a server without a bundle receives."""

import asyncio
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from load_tests.networks.digits import group_norm
from tests.server import running
from tests.tta_server.calls import PATIENCE_S, glyph_images, infer
from tests.tta_server.runtime.fakes import SHAPE, tiny
from tta_server.app import load_model
from tta_server.drift.monitor import PARTS
from tta_server.errors import Conflict, NotReady, TooLarge
from tta_server.models import Model, Preprocess
from tta_server.models.reference import beside
from tta_server.runtime.commands.desk import Who
from tta_server.runtime.gathering import MOST_BYTES, Gathering
from tta_server.settings_file import load_settings
from tta_server.settings_models import ModelSettings
from tta_server.streams.window import Offered, prepared

WANTED = 48
MOST_S = 300
ASKED = {"images": WANTED, "stream": "gate", "reason": "new site"}


def config(folder: Path) -> dict:
    """Return a server of a small network without a bundle, that keeps its log."""
    torch.manual_seed(0)
    save_file(group_norm().state_dict(), folder / "weights.safetensors")
    model = {
        "architecture": "load_tests.networks.digits:group_norm",
        "name": "glyphs",  # where `infer` asks
        "weights": str(folder / "weights.safetensors"),
        "labels": list("0123456789"),
        "preprocess": {"size": [16, 16]},
        "device": "cpu",
    }
    return {"model": model, "storage": {"url": str(folder / "kept")}, "domains": {"max": 8}}


def test_the_next_images_of_a_stream_are_the_home_once_the_server_starts_again(tmp_path):
    images, wanted = glyph_images(0, WANTED)[..., ::2, ::2], config(tmp_path)
    with running(tmp_path, wanted) as server:

        def far() -> dict:
            return server.client.get("/v1/calibrate").raise_for_status().json()

        before = far()
        begun = server.client.post("/v1/calibrate", json=ASKED)
        again = server.client.post("/v1/calibrate", json=ASKED)
        answer = infer(server.client, "gate", images[:32])
        infer(server.client, "gate", images[:32])  # the same: they count once
        infer(server.client, "door", images[32:])  # another's
        halfway = far()
        cancelled = server.client.delete("/v1/calibrate").raise_for_status().json()
        server.client.post("/v1/calibrate", json=ASKED).raise_for_status()
        infer(server.client, "gate", images[:32])
        infer(server.client, "gate", images[32:])
        for _ in range(2 * MOST_S):
            if far()["state"] not in ("gathering", "making"):
                break
            time.sleep(0.5)  # what makes the bundle needs the processor more
        made = far()
        refused = server.client.post("/v1/calibrate", json=ASKED)
        log = server.client.get("/v1/audit").json()["entries"]
    reference = load_model(load_settings(tmp_path / "config.yaml").model).reference  # as the next start finds it

    assert (before["state"], before["images"]) == ("idle", 0)
    assert (begun.status_code, begun.json()["wanted"], again.status_code) == (202, WANTED, 409)
    assert (halfway["state"], halfway["images"], cancelled["state"]) == ("gathering", 32, "cancelled")
    assert not answer["parameters"]["adapted"]
    assert made["state"] == "made", made
    assert "restart the server" in made["said"]
    assert (refused.status_code, "replace" in refused.json()["error"]) == (409, True)
    lines = [line for line in log if line["verdict"] == "calibrate"]
    assert {line["extra"]["state"] for line in lines} == {"gathering", "cancelled", "made"}, json.dumps(lines)
    assert {line["reason"] for line in lines} == {"new site", ""}  # an erasure needs none
    assert reference is not None
    assert reference.parts >= PARTS | {"style"}
    assert reference.about["images"] == WANTED


def gathering(
    folder: Path, client_share: float = 1.0, tell: Callable[..., object] = lambda *_: None, **settings: object
) -> Gathering:
    """Return what gathers images of a tiny network whose weights lie in `folder`, if nothing else is said."""
    model = Model(tiny(), Preprocess(SHAPE[1:]), ("a", "b", "c", "d"))
    found = ModelSettings.model_validate({"weights": folder / "weights.safetensors"} | settings)
    return Gathering(model, found, client_share, tell)


def noise(count: int, seed: int = 0) -> Offered:
    return prepared(np.random.default_rng(seed).random((count, *SHAPE), np.float32))


def test_what_cannot_be_is_refused_before_an_image_is_kept(tmp_path):
    who, most = Who("anna", "x"), MOST_BYTES // math.prod(SHAPE)
    subject = gathering(tmp_path)

    with pytest.raises(TooLarge, match=f"ask for at most {most}"):
        subject.begin(most + 1, "", False, who)
    with pytest.raises(Conflict, match=r"no weights file .* set model\.weights"):
        gathering(tmp_path, weights=None).begin(32, "", True, who)
    with pytest.raises(Conflict, match="cannot be written"):
        gathering(tmp_path / "nowhere").begin(32, "", False, who)
    with pytest.raises(Conflict, match="no images are being taken"):
        asyncio.run(subject.cancel(who))
    beside(tmp_path / "weights.safetensors").touch()
    with pytest.raises(Conflict, match="'replace': true"):
        subject.begin(32, "", False, who)
    assert subject.told()["state"] == "idle"
    assert subject.begin(32, "", True, who)["state"] == "gathering"


def test_a_bundle_that_cannot_be_made_is_said_with_its_reason(tmp_path):
    async def made() -> dict:
        subject = gathering(tmp_path, architecture="tests.networks:nothing")
        subject.begin(16, "door", False, Who("anna", "x"))
        subject.offer("door", "x", noise(16))
        async with asyncio.timeout(PATIENCE_S):
            while subject.told()["state"] == "making":
                await asyncio.sleep(0.01)
        return subject.told()

    told = asyncio.run(made())

    assert (told["state"], told["images"]) == ("failed", 16)
    assert "tests.networks" in told["said"]


def test_once_it_is_ended_no_bundle_is_written_and_no_image_ever_had_a_name_on_the_disk(tmp_path, monkeypatch):
    weights, temporary = tmp_path / "model", tmp_path / "temporary"
    weights.mkdir(), temporary.mkdir()
    slow = tmp_path / "slow"  # in place of Python: writes the bundle, its last argument, and does not end
    slow.write_text('#!/bin/sh\nfor out; do :; done\n: > "$out"\nexec sleep 300\n')
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    async def ended() -> list[Path]:
        subject = gathering(weights)
        subject.begin(16, "", False, Who("anna", "x"))
        for seed in range(4):
            subject.offer(f"gate-{seed}", "x", noise(4, seed))
        async with asyncio.timeout(PATIENCE_S):
            while not any(weights.iterdir()):
                await asyncio.sleep(0.01)
            named = list(temporary.iterdir())
            await subject.cancel(Who("anna"))
        return named

    assert asyncio.run(ended()) == []
    assert list(weights.iterdir()) == []


def test_where_every_stream_counts_neither_one_nor_a_client_is_the_home_alone(tmp_path):
    subject = gathering(tmp_path, client_share=0.5)
    subject.begin(32, "", False, Who("anna", "x"))

    counts = []
    for seed, (stream, client) in enumerate(["ax", "ax", "bx", "cx", "cy"]):
        subject.offer(stream, client, noise(16, seed))
        counts.append(subject.told()["images"])

    assert counts == [8, 8, 16, 16, 24]  # a quarter is a stream's, half is a client's


def test_what_nobody_can_be_told_of_does_not_happen(tmp_path):
    heard: list[dict] = []

    def tell(about: dict, _who: Who) -> None:
        if len(heard) == 1:
            raise NotReady("the server is stopping")
        heard.append(about)

    subject = gathering(tmp_path, tell=tell)
    begun = subject.begin(32, "gate", False, Who("anna", "x"))
    subject.offer("gate", "x", noise(16))

    with pytest.raises(NotReady):
        asyncio.run(subject.cancel(Who("anna")))
    assert subject.told() == begun | {"images": 16}
    heard.append({})
    assert asyncio.run(subject.cancel(Who("anna")))["state"] == "cancelled"
