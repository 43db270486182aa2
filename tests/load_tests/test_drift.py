"""The benchmark of drift runs, and says what it found."""

import re

import numpy as np
import pytest
import torch

from load_tests import drift_replay
from load_tests.drift import main
from load_tests.routed import scene
from tta_server.demo import camera
from tta_server.demo.demo_command import SEED


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("drift") / "drift.md"
    few = [
        "--clean-windows",
        "5",
        "--corruptions",
        "fog",
        "--scene-images",
        "0",
        "--requests",
        "64",
        "--rounds",
        "1",
        "--seconds",
        "0",
    ]
    threads = torch.get_num_threads()
    try:
        assert main([*few, "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    return out.read_text()


def test_few_clean_windows_raise_no_alarm(report):
    assert "On 5 clean windows of 64 images the scores alone raise 0 false alarms and 0" in report
    assert "of their 20 requests raises\n0, and 0 of these would open a domain." in report


def test_fog_is_noticed_within_four_requests_by_its_look_and_within_five_windows_by_the_scores(report):
    (row,) = [line.strip("| ").split(" | ") for line in report.splitlines() if line.startswith("| fog")]

    assert float(row[1].rstrip("%")) > 5
    assert (int(row[2]) <= 4, row[3]) == (True, "style")
    assert int(row[5]) * 16 <= 5 * 64
    assert row[6] in {"entropy_ratio", "energy_shift_sigmas", "feature_distance_ratio"}
    assert {row[4], row[7]} & {"never"} == set()


def test_the_cost_has_a_row_for_each_place(report):
    assert len(re.findall(r"^\| .* \| 64 \| \d+ \| \d+\.\d\d \(.*\) \| \d+ \|$", report, re.M)) == 3


def test_in_the_demos_order_each_costly_scene_is_drift_in_time_and_clean_ones_are_stable_at_their_end(monkeypatch):
    shown = ["clean", "gaussian_noise", "fog", "clean"]
    monkeypatch.setattr(camera, "order", lambda: [(name, 1) for name in shown])
    scenes = camera.camera(256, 5, SEED, lambda _name: None)

    *_, learning, frozen = drift_replay.report(scene("glyphs", torch.device("cpu")), scenes)

    assert learning == "`after`: 2 scenes cost more than 3%; missed: none."
    assert frozen == "`off`: 2 scenes cost more than 3%; missed: none."


def test_a_scene_that_is_seen_late_or_not_at_its_end_is_named():
    scenes = [camera.Scene(name, 1, [], np.empty(0, np.int64)) for name in ("fog", "snow", "clean", "brightness")]
    late, left = ("stable",) * 5 + ("drift",), ("drift", "stable")
    sights = [drift_replay.Sight(states, "") for states in (late, left, ("stable", "drift"), ("stable",))]

    missed = list(drift_replay.misses(scenes, [True, True, False, False], sights, 4))

    assert missed == ["fog 1 (after 6 requests)", "snow 1 (stable at its end)", "clean 1 (drift at its end)"]
