"""Text, JSON, CSV and picture say the same."""

import csv
import json

import pytest
from PIL import Image

from tta_server.evaluate import heatmap, report
from tta_server.evaluate.results import Result, ResultFolder

SOURCE = Result(
    "continual", "source", errors={"gaussian_noise": 0.5, "fog": 0.25}, clean=0.1, clean_again=0.1, answer_ms=1.5
)
GOOD = Result(
    "continual",
    "tent lr=0.005",
    errors={"gaussian_noise": 0.2512, "fog": 0.125},
    clean=0.1,
    clean_again=0.15,
    selected=0.75,
    answer_ms=2.25,
    learn_ms=10.125,
    state_bytes=12345,
    peak_bytes=67_890_000,
    images=128,
)
BAD = Result("continual", "lame", errors={"gaussian_noise": 0.9, "fog": 0.9}, clean=0.3, clean_again=0.11)
REFUSED = Result("continual", "eata", "refused", "adapter 'eata' needs reference.fisher")
RESULTS = [SOURCE, GOOD, BAD, REFUSED]


def cells(text: str, adapter: str) -> list[str]:
    row = next(line for line in text.splitlines() if line.strip().startswith(adapter))
    return [cell.strip() for cell in row.split("│")]


def test_each_is_set_beside_the_frozen_model():
    lines = report.compare(RESULTS)

    assert [line.ratio for line in lines] == [1.0, pytest.approx(0.3762 / 0.75), pytest.approx(2.4), None]
    remarks = ["frozen", "best, loses 5.0 on clean", "worse than frozen", "refused"]
    assert [line.remark for line in lines] == remarks
    with pytest.raises(ValueError, match="no result of 'source'"):
        report.compare([GOOD])


def test_a_frozen_model_without_errors_has_no_ratio():
    perfect = Result("continual", "source", errors={"fog": 0.0})
    lines = report.compare([perfect, Result("continual", "bn", errors={"fog": 0.1})])

    assert [line.ratio for line in lines] == [None, None]
    assert lines[1].remark == "worse than frozen"


def test_the_text_gives_every_number_in_percent():
    text = report.as_text(report.compare(RESULTS), "continual")

    assert cells(text, "tent lr=0.005") == [
        "tent lr=0.005",
        *("18.8", "0.502", "10.0", "15.0", "25.1", "12.5", "75.0", "2.25", "10.12", "12.3", "67.9"),
        "best, loses 5.0 on clean",
    ]
    assert cells(text, "eata")[1:-1] == ["-"] * 11
    assert "eata: refused: adapter 'eata' needs reference.fisher" in text
    assert "gauss" in text


def test_a_narrow_terminal_gets_a_table_without_corruptions():
    long = {f"part {number}": 0.5 for number in range(1, 16)}
    lines = report.compare([Result("mixed-clean", "source", errors=long)])

    narrow, wide = report.as_text(lines, "mixed", 120), report.as_text(lines, "mixed", 300)

    assert "part 7" in wide
    assert "part 7" not in narrow
    assert max(map(len, narrow.splitlines())) <= 120
    assert cells(narrow, "source")[:2] == ["source", "50.0"]


def test_files_and_text_agree(tmp_path):
    lines = report.compare(RESULTS)

    report.write(tmp_path, {"seed": 3}, {"continual": lines})

    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["arguments"] == {"seed": 3}
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    text = (tmp_path / "report.txt").read_text()
    assert "seed: 3" in text
    for result, line, entry, row in zip(RESULTS, lines, stored["protocols"]["continual"], rows, strict=True):
        assert entry["adapter"] == row["adapter"] == result.adapter
        assert (entry["mean"], entry["ratio"], entry["reason"]) == (result.mean, line.ratio, result.reason)
        assert row["mean"] == ("" if result.mean is None else str(result.mean))
        assert row["fog"] == str(entry.get("fog", ""))
        shown = cells(text, result.adapter)
        assert shown[1] == ("-" if result.mean is None else f"{100 * entry['mean']:.1f}")
        assert shown[-1] == entry["remark"] == row["remark"]


def test_the_picture_leaves_out_what_has_no_numbers(tmp_path):
    heatmap.draw(tmp_path / "all.png", report.compare(RESULTS), "continual")
    heatmap.draw(tmp_path / "without.png", report.compare(RESULTS[:3]), "continual")

    with Image.open(tmp_path / "all.png") as one, Image.open(tmp_path / "without.png") as other:
        assert one.size == other.size
        assert one.tobytes() == other.tobytes()
        assert one.width > 300


# The folder of results
def test_a_result_is_found_again_by_its_key_only(tmp_path):
    folder = ResultFolder(tmp_path, {"seed": 1}, None)
    folder.save(GOOD, "key")

    again = ResultFolder(tmp_path, {"seed": 1}, True)
    assert again.load("continual", "tent lr=0.005", "key") == GOOD
    assert again.load("continual", "tent lr=0.005", "other code") is None
    assert again.load("continual", "tent lr=0.05", "key") is None
    assert again.load("mixed", "tent lr=0.005", "key") is None


def test_results_of_other_arguments_are_neither_mixed_nor_lost(tmp_path):
    ResultFolder(tmp_path, {"seed": 1, "batch": 64}, None).save(GOOD, "key")

    for resume in (None, True):
        with pytest.raises(ValueError, match=r"other arguments \(batch was 64, now is 32\); give another --out"):
            ResultFolder(tmp_path, {"seed": 1, "batch": 32}, resume)
    assert ResultFolder(tmp_path, {"seed": 1, "batch": 64}, None).load("continual", GOOD.adapter, "key") == GOOD
    assert ResultFolder(tmp_path, {"seed": 1, "batch": 32}, False).load("continual", GOOD.adapter, "key") is None
