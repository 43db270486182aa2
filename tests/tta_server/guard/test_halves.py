"""Whether images determine the statistics that are taken of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.networks import layer_norm_network
from tests.tta_server.guard.streams import clean, foggy, make_guard, model
from tta_server import adapters
from tta_server.guard.guard import Guard
from tta_server.guard.halves import agreement, determined
from tta_server.models import EMPTY, TorchBackbone
from tta_server.models.robust import robust
from tta_server.settings import GuardSettings

READINGS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)


def pale(rows):
    return 0.05 * clean(0, rows) + 0.8


def of_two_kinds(rows):
    """Return images of which the later half is noise."""
    x, noise = clean(0, rows), torch.rand(clean(0, rows).shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([x[: rows // 2], noise[rows // 2 :]])


def both(pairs):
    return tuple(torch.tensor(pairs).T)


@given(pairs=READINGS, names=st.permutations(range(6)), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_agreement_depends_on_neither_order_nor_side_nor_names(pairs, names, seed):
    one, other = both(pairs)
    order = torch.randperm(len(one), generator=torch.Generator().manual_seed(seed))
    found = agreement(one, other)

    assert found <= 1
    assert agreement(other, one) == pytest.approx(found)
    assert agreement(one[order], other[order]) == pytest.approx(found)
    assert agreement(torch.tensor(names)[one], torch.tensor(names)[other]) == pytest.approx(found)


@given(pairs=READINGS)
@settings(max_examples=100, deadline=None)
def test_readings_agree_wholly_with_themselves_unless_they_are_of_one_class(pairs):
    one, _ = both(pairs)

    assert agreement(one, one) == pytest.approx(float(len(one.unique()) > 1))
    assert agreement(one[:0], one[:0]) == 0


def test_readings_that_are_alike_by_chance_do_not_agree():
    one, other = torch.arange(4).repeat_interleave(4), torch.arange(4).repeat(4)

    assert agreement(one, other) == pytest.approx(0)


def frozen(x):
    return model().backbone.forward(x).logits.argmax(1)


@pytest.mark.parametrize("rows", [16, 64])
def test_images_of_one_kind_determine_their_statistics_and_those_of_two_do_not(rows):
    assert determined(model().backbone, pale(rows), frozen(pale(rows)))
    assert not determined(model().backbone, of_two_kinds(rows), frozen(of_two_kinds(rows)))


def test_which_half_comes_first_does_not_matter():
    for x in (foggy(clean(0, 32)), clean(0, 6), of_two_kinds(32)):
        turned = x.roll(len(x) // 2, 0)

        assert determined(model().backbone, x, frozen(x)) == determined(model().backbone, turned, frozen(turned))


def test_images_whose_answers_stay_say_nothing_for_those_whose_answers_move():
    # As where statistics may move by a tenth: nearly all is read as by the frozen model, and the rest by chance.
    held, x = robust(model().backbone, 1, source_share=0.9), of_two_kinds(32)
    own = held.forward(x, EMPTY, "batch").logits.argmax(1)

    assert agreement(own, frozen(x)) > 0.6
    assert not determined(held, x, frozen(x))


def test_copies_of_one_image_show_nothing():
    x = clean(0, 1).expand(16, -1, -1, -1)

    assert not determined(model().backbone, x, frozen(x))


@pytest.mark.parametrize("rows", [0, 1, 15])
def test_few_images_show_nothing(rows):
    assert not determined(model().backbone, clean(0, rows), torch.zeros(rows, dtype=torch.long))


def test_a_network_that_takes_no_statistics_moves_no_answer():
    backbone = TorchBackbone(layer_norm_network(), (3, 8, 8))
    x = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x *= torch.linspace(0, 1, 32)[:, None, None, None]
    classes = backbone.forward(x).logits.argmax(1)

    assert len(classes.unique()) > 1
    assert not determined(backbone, x, classes)
    assert determined(backbone, x, (classes + 1) % backbone.spec.classes)


class Counted:
    """The embedded network; counts the images that it is shown."""

    def __init__(self) -> None:
        self.rows = 0

    def __getattr__(self, name):
        return getattr(model().backbone, name)

    def forward(self, x, *rest):
        self.rows += len(x)
        return model().backbone.forward(x, *rest)


@pytest.mark.parametrize(("x", "serve"), [(pale(64), "adapted"), (of_two_kinds(64), "source")])
def test_where_no_answer_is_credible_the_stream_answers_if_its_statistics_are_determined(x, serve):
    frozen = model().backbone.forward(x)
    unsure = frozen._replace(logits=frozen.logits.roll(1, 1) / 100)
    counted = Counted()
    guard = Guard(counted, adapters.create("bn"), model().reference, GuardSettings())
    counted.rows = 0

    # What the frozen model says is made incredible too: it would be believed otherwise.
    lost = frozen._replace(features=frozen.features + 100)
    assert guard.weigh(guard.start(), x, lost, unsure)[1] == serve
    assert counted.rows == 3 * 64  # three forwards of the window


def test_where_answers_are_credible_nothing_more_is_run():
    home = model().backbone.forward(clean(0, 64))
    counted = Counted()
    guard = Guard(counted, adapters.create("bn"), model().reference, GuardSettings())
    counted.rows = 0

    lost = home._replace(logits=home.logits.roll(1, 1), features=home.features + 100)
    assert guard.weigh(guard.start(), clean(0, 64), lost, home)[1] == "adapted"
    assert not counted.rows


def test_statistics_vouch_for_no_method_that_answers_without_them():
    x = pale(64)
    frozen = model().backbone.forward(x)
    guard = make_guard(adapters.create("lame"))

    lost = frozen._replace(features=frozen.features + 100)
    assert guard.weigh(guard.start(), x, lost, frozen._replace(logits=frozen.logits.roll(1, 1) / 100))[1] == "source"
