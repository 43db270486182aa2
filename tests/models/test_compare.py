"""How long one way of running a network takes of another's time."""

import pytest

from tests.models.small import SHAPE, small
from tta_server.models import TorchBackbone
from tta_server.models import compare as module


def test_times_are_taken_from_the_source_and_a_stream_of_one_image_and_of_several(monkeypatch):
    ways = []
    monkeypatch.setattr(module, "_timed", lambda made: ways.append([way() for way in made]) or [1.0, 4.0])
    one, other = (TorchBackbone(small(), SHAPE) for _ in range(2))

    assert module.compare(one, other) == pytest.approx(0.25)
    assert len(ways) == 4


def test_the_least_time_counts_and_the_first_does_not(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    calls = []

    times = module._timed([lambda: calls.append("one"), lambda: [next(clock), calls.append("other")]])

    assert times == [1, 2]
    assert calls.count("one") == calls.count("other") >= 6
