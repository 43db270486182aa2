import re

import pytest
import torch

from load_tests.streams import alternate_sides, difference, main

RATIO = re.compile(r"\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("streams") / "streams.md"
    small = ["--models", "glyphs", "resnet18", "--size", "64", "--streams", "2", "--rows", "4", "--seconds", "0"]
    threads = torch.get_num_threads()
    try:
        assert main([*small, "--device", "cpu", "--threads", "1", "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    return out.read_text()


def test_each_network_has_a_row_for_each_verb(report):
    rows = [line for line in report.splitlines() if line.startswith("| tent")]

    assert [row.split("|")[1].strip() for row in rows] == ["tent, ema: predict", "tent, ema: adapt"] * 2
    assert all(len(RATIO.findall(row)) == 3 for row in rows), rows
    assert "**resnet18**, 3x64x64, 2 streams of 4 images" in report


def test_each_side_goes_first_in_turn():
    called = []

    def clock(run):
        called.append(run())
        return 1.0

    times = alternate_sides({side: lambda side=side: side for side in "abc"}, clock, rounds=3, budget_s=60)

    assert called == [*"abc", *"abc", *"bca", *"cab"]
    assert times == {side: [1.0] * 3 for side in "abc"}


def test_small_numbers_are_compared_with_one():
    assert difference(torch.tensor([1.0, 100.0]), torch.tensor([2.0, 100.0])) == 0.01
    assert difference(torch.tensor([1e-3]), torch.tensor([2e-3])) == pytest.approx(1e-3, rel=1e-3)


def test_an_adapter_that_the_network_cannot_serve_is_refused():
    with pytest.raises(ValueError, match="not every one of roid, nothing"):
        main(["--models", "glyphs", "--device", "cpu", "--adapters", "roid", "nothing"])
