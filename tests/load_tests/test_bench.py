import re

import pytest
import torch

from load_tests.bench import main
from load_tests.clock import alternate
from tta_server import adapters

RATIO = re.compile(r"\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "bench.md"
    small = ["--models", "glyphs", "--batches", "1", "2", "--rounds", "1", "--device", "cpu", "--threads", "1"]
    threads = torch.get_num_threads()
    try:
        assert main([*small, "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    return out.read_text()


@pytest.fixture
def times(report):
    return table(report, "**glyphs**")


def table(report, title):
    """Cells of the table under `title`, by the first cell of their row."""
    lines = report.split(title)[1].split("\n\n")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in rows if set(first) != {"-"}}


def test_every_registered_adapter_has_a_row(times):
    assert {label.partition(",")[0] for label in times} == {"adapter", *adapters.names()}


def test_each_verb_has_a_column_for_each_batch(times):
    assert times["adapter"] == ["predict, batch 1", "predict, batch 2", "adapt, batch 1", "adapt, batch 2"]


def test_every_cell_at_two_rows_is_a_ratio(times):
    cells = [row[column] for label, row in times.items() if label != "adapter" for column in (1, 3)]

    assert all(RATIO.fullmatch(cell) for cell in cells), cells


def test_batch_statistics_of_one_image_are_left_out_and_said_to_be(times, report):
    assert times["bn, batch"][::2] == ["-", "-"]
    assert re.search(r"Left out at batch 1, .*`bn, batch`.*: batch statistics need at least 2 images", report)


def test_the_state_of_the_source_takes_no_memory_and_that_of_others_some(report):
    memory = table(report, "**State of one stream**")

    assert memory["source"] == ["0 (0.0%)"]
    assert int(memory["tent, ema"][0].partition(" ")[0].replace(",", "")) > 0


def test_the_order_of_the_two_sides_is_reversed_every_round():
    called = []

    def clock(run):
        called.append(run())
        return 1.0

    alternate(lambda: "plain", lambda: "other", clock, rounds=2, budget_s=60, warm_up=0)

    assert called == ["plain", "other", "other", "plain"]
