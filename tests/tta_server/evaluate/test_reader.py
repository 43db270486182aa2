"""Images are read in the order of the plan, and made only once."""

import numpy as np
import pytest

from tests.tta_server.evaluate.small import OnlyLabels
from tta_server.evaluate.datasets import CLEAN
from tta_server.evaluate.protocols import Course, plan
from tta_server.evaluate.published import open_dataset
from tta_server.evaluate.reader import Reader
from tta_server.models import load


def embedded():
    data = open_dataset("glyphs", load("glyphs"), seed=0)
    data.corruptions = ("gaussian_noise", "brightness")
    return data


def test_a_mixed_batch_holds_the_images_and_labels_of_its_places(tmp_path):
    data = embedded()
    phase = plan("mixed", data, Course(images=10))[1]
    reader = Reader(data, tmp_path)
    reader.prepare([phase], lambda _images: None)

    images, labels = reader.images(phase, slice(3, 9)), reader.labels(phase)[3:9]

    for place in range(6):
        condition, row = phase.domains[phase.which[3 + place]].condition, phase.rows[3 + place]
        assert np.array_equal(images[place], data.images(condition, np.array([row]))[0])
        assert labels[place] == data.labels(condition)[row]


def test_corrupted_images_are_made_once_for_all_protocols(tmp_path):
    data, made = embedded(), []
    course = Course(images=10)
    for protocol in ("continual", "mixed", "single"):
        Reader(data, tmp_path).prepare(plan(protocol, data, course), made.append)

    assert sum(made) == 30  # two corruptions and the clean images
    assert len(list(tmp_path.iterdir())) == 3
    Reader(data, tmp_path).prepare(plan("continual", data, Course(images=11)), made.append)
    assert sum(made) == 63


def test_an_interrupted_making_leaves_nothing_that_would_be_taken_for_whole(tmp_path):
    data = embedded()
    phases = plan("continual", data, Course(images=40))

    def stop(_images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Reader(data, tmp_path).prepare(phases, stop)
    assert not list(tmp_path.glob("*.npy"))
    reader = Reader(data, tmp_path)
    reader.prepare(phases, lambda _images: None)
    rows = phases[1].rows[:3]
    expected = data.images(phases[1].domains[0].condition, rows)
    assert np.array_equal(reader.images(phases[1], slice(0, 3)), expected)


def test_published_images_are_read_from_their_own_files(tmp_path):
    data = OnlyLabels()
    phases = plan("continual", data, Course(images=10))
    reader = Reader(data, tmp_path / "images")

    reader.prepare(phases, lambda _images: None)

    assert not (tmp_path / "images").exists()
    assert np.array_equal(reader.images(phases[0], slice(0, 4))[:, 0, 0, 0], phases[0].rows[:4])
    assert np.array_equal(reader.labels(phases[0]), data.labels(CLEAN)[phases[0].rows])
