import re

import pytest
import torch

from load_tests.routing_cost import main

RATIO = re.compile(r"\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("routing") / "cost.md"
    small = ["--models", "glyphs", "--requests", "1", "16", "--window", "16", "--rounds", "1", "--seconds", "0"]
    threads = torch.get_num_threads()
    try:
        assert main([*small, "--sized", "resnet18", "--device", "cpu", "--threads", "1", "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    return out.read_text()


def test_each_place_and_size_of_requests_has_a_row(report):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines() if "over" in line]
    rows = [row for row in rows if len(row) == 6]

    assert [row[1] for row in rows] == ["1", "16"] * 4
    assert all(RATIO.fullmatch(row[3]) for row in rows), rows


def test_clean_images_are_at_home_and_noisy_ones_in_one_domain(report):
    where = [
        line.strip("| ").split("|")[-1].strip() for line in report.splitlines() if line.startswith(("| at", "| aw"))
    ]

    assert where == ["source"] * 4 + ["gate@1"] * 4


def test_a_step_and_the_memory_of_each_network_are_reported(report):
    assert re.search(r"A learning step on 16 images, guard on, takes \d+\.\d ms", report)
    assert report.count("| each of its domains |") == 2
    assert "**resnet18**, 3x64x64" in report
