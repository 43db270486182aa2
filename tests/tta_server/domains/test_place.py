import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tta_server.domains.place import Group, Place, distances, each, surprises
from tta_server.domains.space import KIN_IMAGES

FEW = settings(deadline=None, max_examples=40)
counts = st.integers(2, 20)


def cloud(n, at=0.0, width=1.0, dimensions=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return at + width * torch.randn(n, dimensions, generator=generator, dtype=torch.float64)


def spread(styles):
    return Group(styles.numpy()).spread


@FEW
@given(first=counts, second=counts, at=st.floats(-20, 20), seed=st.integers(0, 99))
def test_a_centre_is_the_mean_of_all_images_seen_while_they_are_few(first, second, at, seed):
    one, other = cloud(first, seed=seed), cloud(second, at, seed=seed + 1)

    place = Place.first(one).seen(other)

    assert_close(place.centre, torch.cat([one, other]).mean(0))
    assert place.images == first + second


@FEW
@given(first=counts, second=counts, at=st.floats(-20, 20), width=st.floats(1.5, 9), seed=st.integers(0, 99))
def test_merging_two_domains_gives_the_place_of_both(first, second, at, width, seed):
    one, other = cloud(first * 20, width=width, seed=seed), cloud(second * 20, at, width, seed=seed + 1)

    merged = Place.first(one).merged(Place.first(other))

    both = torch.cat([one, other])
    assert_close(merged.centre, both.mean(0))
    assert_close(merged.spread, spread(both), rtol=0.1, atol=0)
    again = Place.first(other).merged(Place.first(one))
    assert_close(again.centre, merged.centre)
    assert_close(again.spread, merged.spread)


def test_the_distance_of_images_that_belong_is_at_most_1_whatever_their_number():
    place = Place.first(cloud(400, 3.0, 2.0, 50))

    for images in (1, 4, 16, 64):
        found = [place.distance(cloud(images, 3.0, 2.0, 50, seed)) for seed in range(1, 21)]
        chance = (1 / images + 1 / 400) / (1 / images + 1 / 400 + 1 / KIN_IMAGES)
        assert 0.8 < sum(found) / len(found) / chance < 1.25


def test_many_images_of_one_class_lie_no_farther_than_few():
    kin = torch.full((1, 50), KIN_IMAGES**-0.5, dtype=torch.float64)  # as far out as chance puts 16 images

    for images in (16, 64, 1024):
        found = [Place.source(50, 600).distance(kin + cloud(images, dimensions=50, seed=seed)) for seed in range(20)]
        assert 0.8 < sum(found) / len(found) < 1.25


def test_a_place_known_from_few_images_takes_in_more():
    images = cloud(4, seed=5)

    few, many = (Place(torch.ones(5, dtype=torch.float64), 1.0, known) for known in (2, 2000))

    assert few.distance(images) < many.distance(images)


def test_a_domain_moves_along_with_images_that_change_slowly():
    place = Place.first(cloud(16))
    for step in range(200):
        place = place.seen(cloud(16, step * 0.02, seed=step))

    assert place.centre.mean() > 3.0  # of 4: the last images, not the mean of all
    assert place.images == 201 * 16


@FEW
@given(n=st.integers(1, 9), width=st.floats(0, 5), seed=st.integers(0, 99))
def test_a_domain_is_never_narrower_than_the_source(n, width, seed):
    place = Place.first(cloud(n, width=width, seed=seed))

    assert place.spread >= 1
    assert place.seen(cloud(n, width=width, seed=seed + 1)).spread >= 1


def test_a_place_is_a_value():
    place = Place.first(cloud(8))
    centre = place.centre.clone()

    place.seen(cloud(8, 5.0))
    place.merged(Place.first(cloud(8, 5.0)))

    assert torch.equal(place.centre, centre)


def test_places_are_apart_by_the_spread_of_the_wider():
    narrow, wide = Place.source(5, 100), Place(torch.full((5,), 2.0, dtype=torch.float64), 4.0, 100)

    assert narrow.apart(wide) == wide.apart(narrow) == 1.0
    assert narrow.apart(narrow) == 0.0


@FEW
@given(first=counts, second=counts, at=st.floats(-3, 3), seed=st.integers(0, 99))
def test_two_places_are_as_far_apart_as_one_is_from_the_images_of_the_other(first, second, at, seed):
    one, images = Place.first(cloud(first, seed=seed, dimensions=80)), cloud(second, at, seed=seed + 1, dimensions=80)
    other = Place.first(images)

    assert one.between(other) == pytest.approx(other.between(one))
    assert one.between(other) == pytest.approx(one.distance(images), rel=0.02)  # nearly all are different


@FEW
@given(n=st.integers(2, 20), at=st.floats(0.5, 9), width=st.floats(0.2, 3), seed=st.integers(0, 99))
def test_a_wide_domain_takes_in_no_more_of_what_is_narrow_than_a_narrow_one_does(n, at, width, seed):
    centre, images = torch.zeros(5, dtype=torch.float64), cloud(n, at, width, seed=seed)
    own = max(1.0, spread(images))

    as_wide, twice = (Place(centre, width, 64).distance(images) for width in (own, 2 * own))

    assert as_wide == pytest.approx(twice)
    assert Place(centre, 1.0, 64).distance(images) >= as_wide


@pytest.mark.parametrize("images", [1, 4, 16, 64])
def test_many_copies_of_a_usual_source_image_lie_no_farther_than_one(images):
    home = Place.source(100, 600)
    for seed in range(20):
        scene = cloud(1, dimensions=100, seed=seed)

        still = scene + cloud(images, width=0.1, dimensions=100, seed=seed + 100)

        assert home.distance(still) == pytest.approx(home.distance(scene), rel=0.1)
        assert home.distance(still) < 1.5


@FEW
@given(n=st.integers(1, 20), at=st.floats(-3, 3), seed=st.integers(0, 99))
def test_the_distances_to_several_places_are_those_to_each(n, at, seed):
    places, images = [Place.source(5, 600), Place.first(cloud(9, 2.0))], cloud(n, at, seed=seed)

    assert distances(places, Group(images.numpy())) == [place.distance(images) for place in places]


@FEW
@given(at=st.floats(-3, 3), width=st.floats(1, 50), known=st.integers(2, 500), seed=st.integers(0, 99))
def test_of_two_places_the_one_of_greater_density_surprises_less(at, width, known, seed):
    places = [Place.source(5, 600), Place(torch.full((5,), at, dtype=torch.float64), width, known)]
    images = cloud(20, width=width**0.5, seed=seed)

    here, there = torch.from_numpy(surprises(places, each(places, images.numpy())))

    density = [
        torch.distributions.Normal(place.centre, (place.spread * (1 + 1 / place.images)) ** 0.5).log_prob(images).sum(1)
        for place in places
    ]
    assert_close(here - there, 2 / 5 * (density[1] - density[0]))
