"""A stream that was saved and read back goes on as if nothing had been, its guard too."""

from pathlib import Path

import numpy as np
import pytest

from tests.states import bits
from tests.tta_server.runtime.fakes import ask, close, learn_all, opened
from tta_server import adapters, models
from tta_server.app import open_storage
from tta_server.evaluate.corruptions import corrupt
from tta_server.models import Backbone, Model, glyphs
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_graphs import graphs_of
from tta_server.runtime.assemble import Runs, assemble
from tta_server.runtime.work.worker import Worker
from tta_server.settings_file import load_settings
from tta_server.telemetry.metrics import Metrics

WINDOW = 16
SHOWN = ("", "gaussian_noise", "", "fog")
STOPS = (2, 6, 9, 13)


@pytest.fixture(scope="module")
def model() -> Model:
    return models.load("glyphs")


@pytest.fixture(scope="module")
def windows() -> list[np.ndarray]:
    """Clean windows, noisy ones, clean ones again, foggy ones: the guard says all kinds of things about them."""
    images = np.split(glyphs.images("test")[0][: 16 * WINDOW], 4)
    parts = [corrupt(part, name, 5) if name else part for part, name in zip(images, SHOWN, strict=True)]
    return np.split(np.concatenate(parts), 16)


@pytest.fixture(scope="module")
def torch(model: Model) -> Backbone:
    return model.backbone


@pytest.fixture(scope="module")
def onnx(model: Model) -> Backbone:
    return OnnxBackbone(model.backbone, graphs_of(model.reference))


def started(model: Model, folder: Path, domains: int, answers: Backbone) -> Worker:
    """Return a worker over what the folder holds."""
    storage = {"url": str(folder), "save_every_s": 0.0}
    settings = load_settings(
        None,
        {
            "engine": {"window_rows": WINDOW},
            "storage": storage,
            "guard": {"canary_every": 4},
            "domains": {"max": domains},
        },
    )
    kept = open_storage(settings.storage)
    opened.append(kept)
    adapter = adapters.create("tent", lr=0.005)
    metrics = Metrics("glyphs", "tent")
    runs = Runs(answers, model.backbone, answers)
    return assemble(model.backbone, model.reference, adapter, settings, metrics, kept, runs)[0]


def seen(worker: Worker, window: np.ndarray) -> tuple:
    """Answer a window, learn from it, and return everything that must be equal."""
    answer = ask(worker, "gate", window)
    learn_all(worker)
    registry = worker.parts.registry
    streams = [registry.existing(name) for name in ("gate", *registry.domains("gate"))]
    verdicts = [{name: value for name, value in said.items() if name != "time"} for said in streams[0].verdicts]
    states = [(stream.name, bits(stream.state), bits(stream.memory)) for stream in streams]
    return answer.probabilities.tobytes(), answer.domains, answer.version, states, verdicts


@pytest.mark.parametrize(("domains", "runtime"), [(1, "torch"), (16, "torch"), (16, "onnx")])
def test_after_each_restart_answers_states_and_verdicts_are_those_of_a_server_that_went_on(
    model, windows, tmp_path, domains, runtime, request
):
    answers = request.getfixturevalue(runtime)
    one = started(model, tmp_path / "one", domains, answers)
    expected = [seen(one, window) for window in windows]
    close()

    again, found = started(model, tmp_path / "two", domains, answers), []
    for number, window in enumerate(windows):
        if number in STOPS:
            again.parts.registry.evict("gate")  # as when it stops: what no commit wrote is written
            close()
            again = started(model, tmp_path / "two", domains, answers)
        found.append(seen(again, window))

    assert "commit" in {verdict["verdict"] for *_, verdicts in expected for verdict in verdicts}
    assert found == expected
