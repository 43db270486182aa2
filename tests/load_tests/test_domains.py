import numpy as np
import pytest

from load_tests import courses, domains


def test_the_benchmark_prints_a_row_for_each_side(capsys):
    assert domains.main(["--count", "8", "--seeds", "1", "--requests", "16", "8"]) == 0

    printed = capsys.readouterr().out
    assert printed.count("| the default, requests of") == 2
    assert "| frozen |" in printed
    assert "| domains |" in printed


@pytest.mark.parametrize("kind", list(courses.KINDS))
def test_a_stream_shows_images_that_there_are(kind):
    labels = np.arange(96) % 4

    made = courses.streams(kind, labels, 96, 0)

    assert made
    for stretches in made.values():
        assert all(len(stretch.rows) and len(labels[stretch.rows]) <= 96 for stretch in stretches)


def test_the_worst_20_windows_are_found_wherever_they_lie():
    frozen = [np.zeros(2000, bool), np.zeros(2000, bool)]
    wrong = [np.zeros(2000, bool), np.arange(2000) < 128]

    assert domains.worst(wrong, frozen) == pytest.approx(10)
    assert domains.worst(frozen, wrong) == 0
    assert domains.worst([wrong[1][:256]], [frozen[1][:256]]) == pytest.approx(50)
