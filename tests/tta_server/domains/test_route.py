import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.domains.place import Place
from tta_server.domains.route import NEW, follow, is_few, route

LIMIT, DIMENSIONS = 4.0, 100
HOME = Place.source(DIMENSIONS, 500)
FEW = settings(deadline=None, max_examples=40)


def cloud(n, at=0.0, width=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return at + width * torch.randn(n, DIMENSIONS, generator=generator, dtype=torch.float64)


def learnt(at, width=1.0, n=64):
    return Place.first(cloud(n, at, width, seed=77))


@FEW
@given(n=st.integers(8, 64), seed=st.integers(0, 99))
def test_source_images_stay_at_home_whatever_else_is_known(n, seed):
    assert route([HOME, learnt(5.0), learnt(-3.0, 2.0)], cloud(n, seed=seed), LIMIT) == [0] * n


@FEW
@given(n=st.integers(8, 64), at=st.sampled_from([-9.0, 3.0, 20.0]), seed=st.integers(0, 99))
def test_images_of_a_known_domain_go_there(n, at, seed):
    assert route([HOME, learnt(at)], cloud(n, at, seed=seed), LIMIT) == [1] * n


@FEW
@given(n=st.integers(8, 64), at=st.sampled_from([-9.0, 8.0, 20.0]), seed=st.integers(0, 99))
def test_images_that_lie_nowhere_are_new(n, at, seed):
    assert route([HOME, learnt(3.0)], cloud(n, at, seed=seed), LIMIT) == [NEW] * n


@FEW
@given(share=st.integers(4, 12), known=st.booleans(), seed=st.integers(0, 99))
def test_a_request_that_shows_two_domains_is_divided(share, known, seed):
    places = [HOME, learnt(9.0)] if known else [HOME]
    request = torch.cat([cloud(share, seed=seed), cloud(16 - share, 9.0, seed=seed + 1)])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))

    found = route(places, request[order], LIMIT)

    expected = [0] * share + [1 if known else NEW] * (16 - share)
    assert found == [expected[i] for i in order]


@FEW
@given(n=st.integers(8, 40), at=st.floats(-6, 6), width=st.floats(0.5, 3), seed=st.integers(0, 99))
def test_the_order_of_the_images_does_not_matter(n, at, width, seed):
    places, request = [HOME, learnt(4.0), learnt(-4.0, 2.0)], cloud(n, at, width, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))

    found = route(places, request, LIMIT)

    assert route(places, request[order], LIMIT) == [found[i] for i in order]
    assert all(index in (NEW, 0, 1, 2) for index in found)


def test_a_wide_domain_takes_in_what_a_narrow_one_would_not():
    request = cloud(16, 6.0, 3.0, seed=4)

    assert route([HOME, learnt(5.8, 3.0)], request, LIMIT) == [1] * 16
    assert NEW in route([HOME, learnt(5.8, 1.0)], request, LIMIT)


def test_few_images_stay_where_the_stream_is_unless_another_place_is_clearly_nearer():
    places = [HOME, learnt(0.6)]
    between = cloud(8, 0.3, seed=3)

    assert follow(places, between, 0, LIMIT) == 0
    assert follow(places, between, 1, LIMIT) == 1
    assert follow([HOME, learnt(9.0)], cloud(8, 9.0), 0, LIMIT) == 1
    assert follow([HOME, learnt(9.0)], cloud(8), 1, LIMIT) == 0


@pytest.mark.parametrize(("seen", "expected"), [(1, 0), (3, 0), (4, NEW), (8, NEW)])
def test_a_single_strange_image_opens_no_domain(seen, expected):
    assert follow([HOME], cloud(seen, 12.0), 0, LIMIT) == expected


def test_requests_are_few_below_eight_images():
    assert [is_few(n) for n in (1, 7, 8, 64)] == [True, True, False, False]
