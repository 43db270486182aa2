"""The benchmark of drift runs, and says what it found."""

import re

import pytest
import torch

from load_tests.drift import main


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("drift") / "drift.md"
    few = ["--clean-windows", "5", "--corruptions", "fog", "--requests", "64", "--rounds", "1", "--seconds", "0"]
    threads = torch.get_num_threads()
    try:
        assert main([*few, "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    return out.read_text()


def test_few_clean_windows_raise_no_alarm(report):
    assert "On 5 clean windows of 64 images the scores alone raise 0 false alarms and 0" in report
    assert "of their 20 requests raises\n0." in report


def test_fog_is_noticed_within_four_requests_by_its_look_and_within_five_windows_by_the_scores(report):
    (row,) = [line.strip("| ").split(" | ") for line in report.splitlines() if line.startswith("| fog")]

    assert float(row[1].rstrip("%")) > 5
    assert (int(row[2]) <= 4, row[3]) == (True, "style")
    assert int(row[5]) * 16 <= 5 * 64
    assert row[6] in {"entropy_ratio", "energy_shift_sigmas", "feature_distance_ratio"}
    assert {row[4], row[7]} & {"never"} == set()


def test_the_cost_has_a_row_for_each_place(report):
    assert len(re.findall(r"^\| .* \| 64 \| \d+ \| \d+\.\d\d \(.*\) \| \d+ \|$", report, re.M)) == 3
