"""The verdict says what adapting gained, and where it cost."""

import numpy as np
import pytest

from tta_server.demo.camera import CLEAN, Replayed, Scene, order
from tta_server.demo.verdict import ADAPTING, FROZEN, Shown, judge

IMAGES = 100


def replayed(wrong):
    return Replayed(np.arange(IMAGES) < wrong, np.full(7, 0.01), ["camera@1"] * 60 + ["source"] * 40)


def shown(name, showing, frozen, adapting):
    scene = Scene(name, showing, [b""] * IMAGES, np.zeros(IMAGES, np.int64))
    return Shown(scene, {FROZEN: replayed(frozen), ADAPTING: replayed(adapting)}, 2.0)


def course(first, second, clean=2, frozen=50):
    """Return all scenes; of the corrupted ones adapting misreads so many first and second time."""
    return [
        shown(name, showing, 2, clean) if name == CLEAN else shown(name, showing, frozen, (first, second)[showing - 1])
        for name, showing in order()
    ]


def test_it_says_both_showings_and_that_adapting_was_nowhere_worse():
    words, good = judge(course(20, 10), severity=5)

    assert good
    assert words.startswith("Adapting helped (0.30 x the frozen error). ")
    assert "frozen 50.0% and 50.0%; adapting 20.0% and 10.0%." in words
    assert words.endswith("Adapting was nowhere worse than frozen.")


def test_it_names_each_scene_in_which_adapting_was_worse_and_by_how_much():
    rows = course(20, 10)
    rows[3] = shown("fog", 1, 50, 54)
    rows[20] = shown("glass_blur", 2, 50, 60)

    words, _ = judge(rows, severity=5)

    assert words.endswith(
        "Adapting was worse than frozen in glass blur (second time, 10.0 points), fog (first time, 4.0 points)."
    )


@pytest.mark.parametrize(("first", "second", "clean"), [(50, 40, 2), (10, 10, 5)])
def test_little_gain_or_a_price_on_clean_images_is_no_help(first, second, clean):
    words, good = judge(course(first, second, clean), severity=5)

    assert not good
    assert words.startswith("Adapting did NOT help")


def test_a_line_of_the_table_names_the_domain_of_most_images():
    numbers = shown("fog", 1, 50, 20).numbers()

    assert numbers["domain"] == "camera@1"
    assert (numbers["frozen_error"], numbers["adapting_error"]) == (0.5, 0.2)
    assert numbers["images_per_second"] == 2 * IMAGES / 2.0
    assert numbers["p50_ms"] == pytest.approx(10)


def test_every_corruption_is_shown_twice_in_the_same_order():
    names = [[name for name, showing in order() if showing == which] for which in (1, 2)]

    assert names[1] == [*names[0], CLEAN]
    assert len(set(names[0])) == 16
