import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.domains.merge import alike
from tta_server.domains.place import MEMORY_IMAGES, Place
from tta_server.domains.route import reach
from tta_server.domains.space import KIN_IMAGES

LIMIT, DIMENSIONS = 2.0, 40
FEW = settings(deadline=None, max_examples=40)
ats = st.lists(st.floats(-3, 3), min_size=0, max_size=5)


def cloud(n, at=0.0, width=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return at + width * torch.randn(n, DIMENSIONS, generator=generator, dtype=torch.float64)


def places(ats, seed=0):
    learnt = [Place.first(cloud(16 + number, at, seed=seed + number)) for number, at in enumerate(ats)]
    return [Place.source(DIMENSIONS, 500), *learnt]


@FEW
@given(ats=ats, seed=st.integers(0, 99))
def test_the_source_neither_takes_in_nor_joins_anybody(ats, seed):
    found = alike(places(ats, seed), LIMIT)

    assert found is None or (0 not in found and found[0] != found[1])


def test_a_domain_that_lies_where_the_source_lies_is_left():
    assert alike(places([0.0]), LIMIT) is None


@FEW
@given(ats=st.lists(st.floats(-3, 3), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_who_is_alike_does_not_depend_on_the_order(ats, seed):
    known = places(ats, seed)
    again = [known[0], *reversed(known[1:])]

    found, other = alike(known, LIMIT), alike(again, LIMIT)

    assert (found is None) == (other is None)
    assert found is None or [known[index].images for index in found] == [again[index].images for index in other]


@FEW
@given(ats=st.lists(st.floats(-3, 3), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_the_one_that_more_images_are_of_stays(ats, seed):
    known = places(ats, seed)

    found = alike(known, LIMIT)

    assert found is None or known[found[0]].images > known[found[1]].images


@FEW
@given(at=st.floats(-2, 2), seed=st.integers(0, 99))
def test_what_is_merged_reaches_the_images_of_both(at, seed):
    one, other = cloud(64, 5.0, seed=seed), cloud(32, 5.0 + at, seed=seed + 1)
    known = [Place.source(DIMENSIONS, 500), Place.first(one), Place.first(other)]

    if alike(known, LIMIT) == (1, 2):
        both = known[1].merged(known[2])
        assert all(both.distance(images) < reach(1, LIMIT) for images in (one, other))


@FEW
@given(ats=ats, seed=st.integers(0, 99))
def test_merging_ends_with_domains_that_are_not_alike(ats, seed):
    known = places(ats, seed)

    while pair := alike(known, LIMIT):
        stays, joins = pair
        known[stays] = known[stays].merged(known[joins])
        del known[joins]

    assert all(one.between(other) >= reach(1, LIMIT) for i, one in enumerate(known) if i for other in known[i + 1 :])


@FEW
@given(
    ats=st.lists(st.floats(-3, 3), min_size=2, max_size=5), moved=st.sets(st.integers(1, 5)), seed=st.integers(0, 99)
)
def test_what_was_apart_and_has_not_moved_need_not_be_compared(ats, moved, seed):
    known = places(ats, seed)
    while pair := alike(known, LIMIT):
        del known[pair[1]]
    moved &= set(range(1, len(known)))
    for index in moved:
        known[index] = known[index].seen(cloud(64, 1.0, seed=seed + index))

    assert alike(known, LIMIT, moved) == alike(known, LIMIT)


def test_two_pieces_of_one_domain_are_alike_and_two_domains_are_not():
    assert alike(places([5.0, 5.3, -5.0]), LIMIT) == (2, 1)
    assert alike(places([5.0, -5.0]), LIMIT) is None


def test_a_wide_domain_does_not_swallow_a_narrow_one_that_lies_in_it():
    wide, narrow = Place.first(cloud(64, 5.0, 5.0)), Place.first(cloud(64, 7.0, seed=1))

    assert alike([Place.source(DIMENSIONS, 500), wide, narrow], LIMIT) is None


@FEW
@given(images=st.integers(16, 1000), others=st.integers(16, 1000), seed=st.integers(0, 99))
def test_between_the_limit_and_the_reach_two_domains_stay_apart_once_both_have_seen_much(images, others, seed):
    one = Place(cloud(1, 5.0, 0.1, seed=seed)[0], 1.0, images)
    middle = (LIMIT + reach(1, LIMIT)) / 2
    away = (middle * (1 / images + 1 / others + 1 / KIN_IMAGES)) ** 0.5
    known = [Place.source(DIMENSIONS, 500), one, Place(one.centre + away, 1.0, others)]

    assert LIMIT < known[1].between(known[2]) < reach(1, LIMIT)
    assert (alike(known, LIMIT) is None) == (min(images, others) >= MEMORY_IMAGES)
