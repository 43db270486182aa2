"""The numbers are those of a direct computation."""

import numpy as np
import pytest
import torch

from tests.tta_server.evaluate.small import cifar, model
from tests.tta_server.runtime.fakes import Fails, tiny
from tta_server import adapters
from tta_server.evaluate.peak_memory import PeakMemory
from tta_server.evaluate.protocols import PROTOCOLS, Course, plan
from tta_server.evaluate.published import open_dataset
from tta_server.evaluate.reader import Reader
from tta_server.evaluate.run import Bench, run

COURSE = Course(images=12)


@pytest.fixture
def data(tmp_path):
    return open_dataset(str(cifar(tmp_path / "data")), model(), seed=0)


@pytest.fixture
def bench(data, tmp_path):
    return Bench(tiny(), None, Reader(data, tmp_path / "images"), batch=4)


def go(bench, data, adapter, protocol="continual", course=COURSE):
    answered: list[int] = []
    phases = plan(protocol, data, course)
    result = run(bench, adapter, adapter.name, protocol, phases, answered.append)
    assert result.status != "ok" or sum(answered) == result.images == sum(map(len, phases))
    return result


def misread(file, labels) -> float:
    logits = tiny().forward(torch.from_numpy(file.transpose(0, 3, 1, 2).copy()).float() / 255).logits
    return float((logits.argmax(1).numpy() != labels).mean())


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "gradual"])
def test_the_frozen_models_error_is_that_of_a_direct_computation(bench, data, tmp_path, protocol):
    result = go(bench, data, adapters.create("source"), protocol)

    labels = np.arange(12) % 4
    for name in ("gaussian_noise", "fog"):
        expected = misread(np.load(tmp_path / "data" / f"{name}.npy")[48:], labels)
        assert result.errors[name] == pytest.approx(expected)
    clean = misread(np.load(tmp_path / "data" / "clean.npy"), labels)
    assert (result.clean, result.clean_again) == (pytest.approx(clean), pytest.approx(clean))
    assert result.mean == pytest.approx(np.mean(list(result.errors.values())))
    assert (result.images, result.state_bytes, result.accepted) == (48, 0, 0)


def test_gradual_counts_all_severities_of_a_corruption(bench, data, tmp_path):
    result = go(bench, data, adapters.create("source"), "gradual", Course(images=None))

    labels = np.arange(12) % 4
    stored = np.load(tmp_path / "data" / "fog.npy").reshape(5, 12, 8, 8, 3)
    expected = [misread(stored[severity - 1], labels) for severity in (1, 2, 3, 4, 5, 4, 3, 2, 1)]
    assert result.errors["fog"] == pytest.approx(np.mean(expected))
    steps = [step for step in result.steps if step["condition"] == "fog"]
    assert [step["error"] for step in steps] == pytest.approx(expected)
    assert [step["severity"] for step in steps] == [1, 2, 3, 4, 5, 4, 3, 2, 1]


def test_single_images_teach_what_batches_do(bench, data):
    adapter = adapters.create("tent", lr=0.1)

    single, continual = go(bench, data, adapter, "single"), go(bench, data, adapter)

    assert single.errors == continual.errors
    assert single.accepted == continual.accepted == 1


def test_reset_gives_each_corruption_a_fresh_start(bench, data):
    adapter = adapters.create("tent", lr=0.5)

    result = go(bench, data, adapter, "reset")

    phases = [phase for phase in plan("continual", data, COURSE) if phase.name == "fog"]
    fresh = run(bench, adapter, "tent", "continual", phases, lambda _images: None)
    assert result.errors["fog"] == fresh.errors["fog"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_seeds_give_equal_numbers(bench, data, protocol):
    first, second = (go(bench, data, adapters.create("tent", lr=0.1), protocol) for _ in range(2))

    assert (first.errors, first.clean, first.clean_again) == (second.errors, second.clean, second.clean_again)


def test_an_adapter_that_refuses_or_breaks_does_not_end_the_evaluation(bench, data):
    refused = go(bench, data, adapters.create("tent", stats="batch"), "single")
    failed = go(bench, data, Fails())

    assert (refused.status, refused.mean) == ("refused", None)
    assert "at least 2 images" in refused.reason
    assert (failed.status, failed.reason) == ("failed", "RuntimeError: no step today")


def test_times_and_sizes_are_measured(bench, data):
    result = go(bench, data, adapters.create("tent"))

    assert result.answer_ms > 0
    assert result.learn_ms > 0
    assert result.elapsed_s > 0
    # Scales and shifts of 8 channels, their momenta, 8 means and variances, and for how many images they count.
    assert result.state_bytes == 4 * (8 * 6 + 1)
    assert go(bench, data, adapters.create("tent", stats="batch")).learn_ms is None


def test_the_peak_of_memory_counts_what_was_given_back():
    with PeakMemory(torch.device("cpu")) as memory:
        block = np.ones(64_000_000, np.uint8)
        del block

    if memory.bytes is None:
        pytest.skip("the system does not tell")
    assert 60e6 < memory.bytes < 200e6  # the process itself may grow a little, too
    with PeakMemory(torch.device("cpu")) as again:
        pass
    assert again.bytes < 30e6
