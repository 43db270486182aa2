"""Streams whose domains take turns."""

import numpy as np

from load_tests.adverse import turns
from tta_server.evaluate.corruptions import CORRUPTIONS

NAMES = ("clean", *CORRUPTIONS)


class Plain:
    """An album whose images and labels are the number of their domain."""

    def mixed(self, name, seed=0):
        number = NAMES.index(name)
        return np.full((768, 3, 1, 1), number, np.uint8), np.full(768, number)


def test_streams_in_turn_show_what_their_name_says():
    for stream in turns(Plain(), 20):
        images, labels = stream.make()

        ends = np.flatnonzero(np.diff(labels)) + 1
        blocks = {(len(block), NAMES[block[0]]) for block in np.split(labels, ends)[1:-1]}

        assert (images[:, 0, 0, 0] == labels).all()
        assert len(labels) == 1536
        said = stream.name.partition(" in turn")[0].split(" and ")
        assert {f"{length} of {name}" for length, name in blocks} == set(said)


def test_streams_in_turn_are_the_same_each_time_and_differ_from_one_another():
    names = [stream.name for stream in turns(Plain(), 200)]

    assert names == [stream.name for stream in turns(Plain(), 200)]
    assert len(set(names)) > 190
