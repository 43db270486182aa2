"""What the metrics say without labels is what anybody computes from the answers."""

import re

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from tests.server import running
from tests.tta_server.calls import FRESH, infer, until
from tests.tta_server.runtime.fakes import ask, close, learn_all, opened
from tta_server import adapters, models
from tta_server.app import open_storage
from tta_server.models import glyphs
from tta_server.runtime.assemble import assemble
from tta_server.settings_file import load_settings
from tta_server.telemetry.metrics import Metrics, render

ROWS, WINDOW = 16, 32
RECENT_IMAGES = 256


def drifted(count: int) -> np.ndarray:
    """Return images under noise (count, 3, 32, 32), bytes."""
    images = glyphs.images("test")[0][:count]
    return np.clip(images + np.random.default_rng(0).normal(0, 60, images.shape), 0, 255).astype(np.uint8)


def gauge(metrics: str, name: str) -> float:
    """Return the only sample of a family."""
    return float(re.search(rf"^{name}{{.*}} (\S+)$", metrics, re.MULTILINE)[1])


def test_entropy_and_confidence_are_those_of_the_recorded_answers(tmp_path):
    images = drifted(10 * ROWS)
    with running(tmp_path, {"model": {"device": "cpu"}, "engine": {"window_rows": WINDOW}}) as server:
        recorded = [infer(server.client, "gate", images[i : i + ROWS]) for i in range(0, len(images) - ROWS, ROWS)]
        until(lambda: server.client.get("/v1/streams/gate").json()["steps"] >= 2)  # the last answer is of another state
        recorded.append(infer(server.client, "gate", images[-ROWS:]))
        until(lambda: gauge(server.client.get("/metrics", headers=FRESH).text, "tta_images_total") == len(images))
        metrics = server.client.get("/metrics", headers=FRESH).text

    ratio = confidence = None
    for answer in recorded:
        rows = np.array(answer["outputs"][0]["data"]).reshape(ROWS, -1)
        now = entropy(rows, axis=1).mean() / np.log(rows.shape[1]), rows.max(1).mean()
        share = 1 if ratio is None else 1 - np.exp(-ROWS / RECENT_IMAGES)
        ratio = now[0] * share + (ratio or 0) * (1 - share)
        confidence = now[1] * share + (confidence or 0) * (1 - share)
    assert recorded[-1]["parameters"]["adapted"]
    assert gauge(metrics, "tta_predictive_entropy_ratio") == pytest.approx(ratio, abs=1e-6)
    assert gauge(metrics, "tta_confidence_ratio") == pytest.approx(confidence, abs=1e-6)


def test_the_guards_gauges_are_those_of_the_recorded_steps():
    model = models.load("glyphs")
    backbone = model.backbone
    settings = load_settings(None, {"engine": {"window_rows": WINDOW}, "domains": {"max": 1}})
    kept = open_storage(settings.storage)
    opened.append(kept)
    adapter = adapters.create("tent")
    worker, _ = assemble(backbone, model.reference, adapter, settings, Metrics("glyphs", "tent"), kept)
    method = worker.parts.methods.default
    images, shares, gathered, states = drifted(8 * WINDOW), np.zeros(36), 0.0, [method.initial]

    for i in range(0, len(images), WINDOW):
        window = images[i : i + WINDOW]
        answered = method.adapter.predict(backbone, states[-1], torch.from_numpy(window).float() / 255)
        share = 1 - np.exp(-WINDOW / RECENT_IMAGES)
        gathered += (1 - gathered) * share
        shares += (answered.logits.softmax(1).mean(0).double().numpy() - shares) * share / gathered
        ask(worker, "gate", window)
        learn_all(worker)
        stream = worker.parts.registry.existing("gate")
        assert stream.verdicts[-1]["verdict"] == "commit"
        states.append(stream.state)

    metrics = render([worker.parts.metrics]).decode()
    close()
    source, last, before = (
        np.concatenate([state[name].double().numpy() for name in sorted(state) if name.startswith("theta/")])
        for state in (states[0], states[-1], states[-2])
    )
    size = np.linalg.norm(source)
    assert gauge(metrics, "tta_prediction_diversity_ratio") == pytest.approx(entropy(shares) / np.log(36), abs=1e-6)
    assert gauge(metrics, "tta_parameter_distance_ratio") == pytest.approx(np.linalg.norm(last - source) / size)
    assert gauge(metrics, "tta_update_norm_ratio") == pytest.approx(np.linalg.norm(last - before) / size)
