"""A camera that shows one scene again and again says of its domain what one image says, however many it sends."""

import numpy as np
import pytest
import torch

from tests.tta_server.drift.test_monitor import MODEL, NOW, monitor, worker
from tests.tta_server.runtime.fakes import ask, close, learn_all
from tta_server.drift.watch import Watch
from tta_server.evaluate.corruptions import corrupt
from tta_server.models import glyphs
from tta_server.runtime.job import HOME

SENSOR = 2  # levels of noise


def still(scene: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return a picture (3, 32, 32) as a sensor with noise sees it again and again (count, 3, 32, 32)."""
    noise = np.random.default_rng(seed).normal(0, SENSOR, (count, *scene.shape))
    return np.clip(scene + noise, 0, 255).round().astype(np.uint8)


@pytest.fixture(autouse=True)
def closed():
    yield
    close()


@pytest.mark.parametrize(("mode", "rows"), [("after", 1), ("after", 16), ("off", 16)])
def test_a_still_clean_scene_is_no_drift_and_is_answered_as_by_the_frozen_model(mode: str, rows: int):
    own = worker(mode, domains=16)
    for place, scene in enumerate(glyphs.images("test")[0][40:43]):
        name = f"gate-{place}"
        for shown in np.split(still(scene, 128, place), 128 // rows):
            answer = ask(own, name, shown)
            learn_all(own)

            frozen = MODEL.backbone.forward(torch.from_numpy(shown).float() / 255).logits.softmax(1).numpy()
            assert np.allclose(answer.probabilities, frozen, atol=1e-6)
            assert set(answer.domains) <= {HOME}
        assert own.parts.registry.existing(name).drift.state == "stable"
        assert not own.parts.registry.domains(name)


def test_a_camera_of_few_scenes_in_turn_is_no_drift_either():
    scenes = glyphs.images("test")[0][60:64]
    own = worker("after", domains=16)
    for turn in range(24):
        ask(own, "gate", still(scenes[turn % len(scenes)], 8, turn))
        learn_all(own)

    assert own.parts.registry.existing("gate").drift.state == "stable"


def test_a_still_scene_under_noise_is_drift():
    scene = corrupt(glyphs.images("test")[0][40:41], "gaussian_noise", 5, 0)[0]
    own = worker("after", domains=16)
    for turn in range(8):
        ask(own, "gate", still(scene, 16, turn))

    assert own.parts.registry.existing("gate").drift.state == "drift"


def test_a_window_of_one_scene_is_scored_but_is_no_evidence():
    watched, draw = monitor(window_rows=64), np.random.default_rng(0)
    strange = np.array([0.9, 0.2, -1.0, 3.0, 60.0])  # as unsure, and as far out, as no source image is
    copies = strange + draw.normal(0, 1e-3, (64, 5)) * [1, 1, 1, 0, 1]
    others = np.stack([strange + draw.normal(0, 1, 5) * [0, 0, 9, 0, 9] for _ in range(64)])

    seen = watched.saw(Watch(), copies, NOW)
    drifting = watched.saw(Watch(), others, NOW)

    assert (seen.seen, seen.evidence.log, seen.state) == (1, 0.0, "stable")
    assert drifting.evidence.log > 0
    assert watched.saw(drifting, copies, NOW).evidence == drifting.evidence
