"""The benchmark of outliers runs and prints what it says."""

from load_tests.outliers import main


def test_it_prints_errors_by_statistics_and_share(tmp_path):
    report = tmp_path / "report.md"

    status = main(["--images", "64", "--batch", "32", "--rounds", "1", "--out", str(report)])

    lines = report.read_text().splitlines()
    assert status == 0
    assert "| clean | " in report.read_text()
    assert sum(line.startswith("| ") and "%" in line for line in lines) == 5
    assert lines[-1].startswith("A forward with medians takes ")
