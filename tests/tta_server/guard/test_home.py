import pytest
import torch

from tests.tta_server.guard.streams import all_images, clean, foggy, model
from tta_server.guard.home import Home, Shares, is_away
from tta_server.guard.record import Record


@pytest.fixture(scope="module")
def home():
    return Home(model().reference)


def look(home, record, x, outliers=0.2):
    return home.look(record, model().backbone.forward(x), outliers)


def fresh():
    return Record.fresh(model().backbone.spec.classes)


@pytest.mark.parametrize("rows", [2, 4, 16, 64])
def test_clean_windows_are_at_home_whatever_their_size(home, rows):
    record, away = fresh(), 0
    for start in range(0, 512, rows):
        record = look(home, record, clean(start, rows))
        away += record.away

    assert away <= 0.03 * 512 / rows


@pytest.mark.parametrize("rows", [2, 4, 16, 64])
def test_drift_is_noticed_within_64_images(home, rows):
    record = fresh()
    for start in range(0, 256, rows):
        record = look(home, record, clean(start, rows))
    for start in range(0, 64, rows):
        record = look(home, record, foggy(clean(start, rows)))

    assert record.away


def test_a_class_that_lies_far_out_is_at_home_too(home):
    images, labels = all_images()
    record, away = fresh(), 0
    for label in range(36):
        of_one = images[labels == label][:64]
        for start in range(0, 64, 16):
            record = look(home, record, of_one[start : start + 16])
            away += record.away

    assert away <= 0.06 * 36 * 4  # without a scale for each class it is nearly twice as many


def test_a_fifth_of_outliers_does_not_make_it_drift(home):
    generator = torch.Generator().manual_seed(0)
    record, away = fresh(), 0
    for start in range(0, 640, 64):
        x = clean(start, 64).clone()
        hit = torch.rand(64, generator=generator) < 0.2
        x[hit] = torch.rand(int(hit.sum()), *x.shape[1:], generator=generator)
        record = look(home, record, x)
        away += record.away

    assert away <= 1


def test_it_takes_more_to_leave_than_to_stay_away():
    between = Shares(far=0.45, unsure=0.1)

    assert not is_away(between, 64, 0.2, was_away=False)
    assert is_away(between, 64, 0.2, was_away=True)


def test_being_unsure_alone_is_drift_too():
    assert is_away(Shares(far=0.1, unsure=0.6), 64, 0.2, was_away=False)


def test_coming_home_forgets_how_the_last_domain_compared(home):
    record = fresh().but(away=True, source=True, excess=0.5, trend=0.5, compared=1.0, trended=1.0)

    record = look(home, record, clean(0, 64))

    assert not record.away
    assert (record.source, record.excess, record.trend, record.compared, record.trended) == (False, 0, 0, 0, 0)


@pytest.mark.parametrize("images", [2, 16, 64])
def test_a_stream_leaves_home_just_above_what_is_tolerated(home, images):
    limits = home.tolerated(images, 0.2)
    behind = images * (2 - min(1.0, images / 32)) / min(1.0, images / 32)

    for step, away in ((-1e-6, False), (1e-6, True)):
        assert is_away(Shares(limits.far + step, 0.0), behind, 0.2, False) == away
        assert is_away(Shares(0.0, limits.unsure + step), behind, 0.2, False) == away
