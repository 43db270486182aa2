"""When domains were met is read from the answers alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tta_server.demo.chart import Mark, Stretch, draw, marks

HOME = "source"
NAMES = (HOME, "camera@1", "camera@2", "camera@3")

histories = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 150)), max_size=12).map(
    lambda runs: [name for name, length in runs for _ in range(length)]
)


@given(histories)
def test_each_domain_is_opened_once_with_its_first_image_and_recalled_only_afterwards(domains):
    found = marks(domains)

    opened = {mark.domain: mark.image for mark in found if mark.opened}
    assert opened == {name: domains.index(name) for name in set(domains) - {HOME}}
    assert sum(mark.opened for mark in found) == len(opened)
    assert all(mark.image > opened[mark.domain] for mark in found if not mark.opened)
    assert all(domains[mark.image] == mark.domain for mark in found)
    assert found == sorted(found)


def test_a_domain_that_comes_back_is_recalled_and_one_that_stays_is_not():
    one, two = NAMES[1:3]

    found = marks([HOME] * 64 + [one] * 256 + [two] * 128 + [HOME] * 64 + [one] * 128)

    assert found == [Mark(64, one, True), Mark(320, two, True), Mark(512, one, False)]


def test_single_images_that_stray_into_a_known_domain_do_not_recall_it():
    one, two = NAMES[1:3]
    stray = ([two] * 15 + [one]) * 16

    assert [mark.opened for mark in marks([one] * 64 + stray)] == [True, True]


def test_the_picture_has_a_panel_for_each_showing(tmp_path):
    def stretch(showing, domain):
        wrong = {name: np.zeros(32, np.bool_) for name in ("frozen", "adapting")}
        return Stretch("fog", showing, wrong, [domain] * 32)

    sizes = []
    for count in (1, 2):
        path = tmp_path / f"{count}.png"
        draw(path, [stretch(showing, NAMES[1]) for showing in range(1, count + 1)], "a title")
        with Image.open(path) as picture:
            sizes.append(picture.size)

    (width, height), (same, taller) = sizes
    assert same == width
    assert 1.5 * height < taller < 2 * height
