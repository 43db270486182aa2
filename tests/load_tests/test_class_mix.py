"""The benchmark of class mixes runs and prints what it says."""

from load_tests.class_mix import main


def test_it_counts_false_alarms_by_mix_and_windows_by_corruption(capsys):
    status = main(["--streams", "2", "--windows", "4", "--most", "100"])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert "| all classes | 0 of 2 |" in lines
    assert sum(line.startswith("| ") and line.endswith(" of 2 |") for line in lines) == 10
    assert any(line.startswith("| fog, severity 5 | 3.") for line in lines)
