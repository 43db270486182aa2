import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tta_server.domains import by_hand
from tta_server.domains.place import Group, Place
from tta_server.domains.route import NEW, RECENT, cut, follow, is_few, reach, route

LIMIT, DIMENSIONS = 4.0, 100
HOME = Place.source(DIMENSIONS, 500)
FEW = settings(deadline=None, max_examples=40)


def cloud(n, at=0.0, width=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return at + width * torch.randn(n, DIMENSIONS, generator=generator, dtype=torch.float64)


def learnt(at, width=1.0, n=64):
    return Place.first(cloud(n, at, width, seed=77))


def last_part(styles):
    return torch.from_numpy(cut(Group(styles.numpy()), LIMIT)[-1].styles)


def routed(places, styles):
    return route(places, Group(styles.numpy()), LIMIT)


def followed(places, styles, current):
    return follow(places, cut(Group(styles.numpy()), LIMIT), current, LIMIT)


@FEW
@given(n=st.integers(8, 64), seed=st.integers(0, 99))
def test_source_images_stay_at_home_whatever_else_is_known(n, seed):
    assert routed([HOME, learnt(5.0), learnt(-3.0, 2.0)], cloud(n, seed=seed)) == [0] * n


@FEW
@given(n=st.integers(8, 64), at=st.sampled_from([-9.0, 3.0, 20.0]), seed=st.integers(0, 99))
def test_images_of_a_known_domain_go_there(n, at, seed):
    assert routed([HOME, learnt(at)], cloud(n, at, seed=seed)) == [1] * n


@FEW
@given(n=st.integers(8, 64), at=st.sampled_from([-9.0, 8.0, 20.0]), seed=st.integers(0, 99))
def test_images_that_lie_nowhere_are_new(n, at, seed):
    assert routed([HOME, learnt(3.0)], cloud(n, at, seed=seed)) == [NEW] * n


@FEW
@given(share=st.integers(4, 12), known=st.booleans(), seed=st.integers(0, 99))
def test_a_request_that_shows_two_domains_is_divided(share, known, seed):
    places = [HOME, learnt(9.0)] if known else [HOME]
    request = torch.cat([cloud(share, seed=seed), cloud(16 - share, 9.0, seed=seed + 1)])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))

    found = routed(places, request[order])

    expected = [0] * share + [1 if known else NEW] * (16 - share)
    assert found == [expected[i] for i in order]


@FEW
@given(n=st.integers(8, 40), at=st.floats(-2, 2), width=st.floats(0.5, 1.3), seed=st.integers(0, 99))
def test_a_request_that_scatters_as_one_domain_does_goes_to_one_place_in_any_order(n, at, width, seed):
    places, request = [HOME, learnt(9.0), learnt(-9.0, 2.0)], cloud(n, at, width, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))

    found = routed(places, request)

    assert len(set(found)) == 1
    assert routed(places, request[order]) == found


@FEW
@given(n=st.integers(1, 40), at=st.floats(-6, 6), width=st.floats(0.5, 3), seed=st.integers(0, 99))
def test_every_image_belongs_somewhere(n, at, width, seed):
    found = routed([HOME, learnt(4.0), learnt(-4.0, 2.0)], cloud(n, at, width, seed))

    assert len(found) == n
    assert all(index in (NEW, 0, 1, 2) for index in found)


@FEW
@given(lengths=st.lists(st.integers(3, 12), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_what_lies_in_a_wide_domain_is_its_own_though_its_parts_are_narrow_and_lie_apart(lengths, seed):
    wide = Place(torch.full((DIMENSIONS,), 30.0, dtype=torch.float64), 50.0, 64)
    centres = 30 + 4 * torch.randn(len(lengths), DIMENSIONS, generator=torch.Generator().manual_seed(seed)).double()
    parts = [cloud(n, centre, seed=seed + i) for i, (n, centre) in enumerate(zip(lengths, centres, strict=True))]

    found = routed([HOME, wide], torch.cat(parts))

    assert 0 not in found  # as far from the source as can be


@FEW
@given(lengths=st.lists(st.integers(4, 12), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_request_is_cut_where_it_changes(lengths, seed):
    at = [0.0, 9.0, -9.0, 9.0][: len(lengths)]
    parts = [cloud(n, here, seed=seed + i) for i, (n, here) in enumerate(zip(lengths, at, strict=True))]

    found = routed([HOME, learnt(9.0), learnt(-9.0)], torch.cat(parts))

    assert found == [{0.0: 0, 9.0: 1, -9.0: 2}[here] for n, here in zip(lengths, at, strict=True) for _ in range(n)]


@FEW
@given(n=st.integers(1, 40), at=st.floats(0, 4), seed=st.integers(0, 99))
def test_who_lies_within_reach_of_the_source_is_at_home_however_near_another_place_is(n, at, seed):
    request = cloud(n, at, seed=seed)
    places = [HOME, Place.first(request)]

    at_home = HOME.distance(request) < LIMIT

    assert (routed(places, request) == [0] * n) == at_home
    assert (followed(places, request, 1)[-1] == 0) == at_home


def test_a_learnt_domain_reaches_farther_than_the_source():
    request = cloud(16, 0.85, seed=6)

    assert LIMIT < HOME.distance(request) < reach(1, LIMIT)
    assert routed([HOME], request) == [NEW] * 16
    assert routed([Place.source(DIMENSIONS, 500), learnt(0.0)], request) == [1] * 16


def test_a_wide_domain_takes_in_what_a_narrow_one_would_not():
    request = cloud(16, 6.0, 3.0, seed=4)

    assert routed([HOME, learnt(5.8, 3.0)], request) == [1] * 16
    assert NEW in routed([HOME, learnt(4.0, 1.0)], request)


def test_few_images_stay_where_the_stream_is_unless_another_place_is_clearly_nearer():
    places = [HOME, learnt(9.0), learnt(9.6)]
    between = cloud(8, 9.3, seed=3)

    assert followed(places, between, 1)[-1] == 1
    assert followed(places, between, 2)[-1] == 2
    assert followed(places, cloud(8, 9.0), 0)[-1] == 1
    assert followed(places, cloud(8), 1)[-1] == 0


@FEW
@given(before=st.integers(2, 15), shown=st.integers(1, 15), seed=st.integers(0, 99))
def test_a_change_shows_with_the_first_image(before, shown, seed):
    recent = torch.cat([cloud(before, 9.0, seed=seed), cloud(shown, -9.0, seed=seed + 1)])[-RECENT:]

    since = last_part(recent)

    assert len(since) == min(shown, RECENT)
    assert followed([HOME, learnt(9.0), learnt(-9.0)], since, 1)[-1] == 2


@FEW
@given(n=st.integers(1, RECENT), at=st.floats(-9, 9), width=st.floats(0.5, 3), seed=st.integers(0, 99))
def test_images_of_one_domain_are_settled(n, at, width, seed):
    recent = cloud(n, at, width, seed)

    assert torch.equal(last_part(recent), recent)


@pytest.mark.parametrize(("seen", "expected"), [(1, 0), (3, 0), (4, NEW), (8, NEW)])
def test_a_single_strange_image_opens_no_domain_and_is_the_sources(seen, expected):
    assert followed([HOME, learnt(-12.0)], cloud(seen, 12.0), 1)[-1] == expected


@FEW
@given(strange=st.integers(1, 3), off=st.sampled_from([-6.0, 6.0]), seed=st.integers(0, 99))
def test_a_few_strange_images_are_the_sources_only_if_no_domain_is_clearly_nearer(strange, off, seed):
    places, rest = [HOME, learnt(30.0)], cloud(16 - strange, 30.0, seed=seed)

    def found(at):
        return routed(places, torch.cat([rest, cloud(strange, at, seed=seed + 1)]))[-strange:]

    assert found(30.0 + off) == [1] * strange
    assert found(off) == [0] * strange
    assert followed(places, cloud(strange, 30.0 + off, seed=seed), 1)[-1] == 1


def test_the_fewer_images_are_the_farther_out_a_new_domain_lies():
    def opens(n):
        return next(at for at in torch.arange(0, 9, 0.05).tolist() if followed([HOME], cloud(n, at), 0)[-1] == NEW)

    assert opens(4) > 1.5 * opens(8) > 1.5 * opens(16)


def test_requests_are_few_below_eight_images():
    assert [is_few(n) for n in (1, 7, 8, 64)] == [True, True, False, False]


WIDE = Place(torch.full((DIMENSIONS,), 7.0, dtype=torch.float64), 50.0, 256)
"""Of images of no class: they scatter so much that the source lies as near to its centre as they do."""


def scattered(kinds, seed=0):
    """Return images in the order of `kinds`, a place each."""
    every = {0: cloud(len(kinds), seed=seed), 1: cloud(len(kinds), 7.0, 50**0.5, seed=seed + 1)}
    return torch.stack([every[kind][row] for row, kind in enumerate(kinds)])


mixtures = st.lists(st.integers(0, 1), min_size=8, max_size=24).filter(lambda kinds: 3 <= sum(kinds) <= len(kinds) - 1)


@FEW
@given(kinds=mixtures, seed=st.integers(0, 99))
def test_who_shares_a_request_with_images_of_a_wide_domain_is_judged_without_them(kinds, seed):
    assert routed([HOME, WIDE], scattered(kinds, seed)) == kinds


@FEW
@given(kinds=mixtures, rows=st.integers(1, 7), seed=st.integers(0, 99))
def test_who_follows_images_of_a_wide_domain_is_judged_without_them(kinds, rows, seed):
    seen = scattered(kinds, seed)[-RECENT:]

    assert followed([HOME, WIDE], seen, 1)[-rows:] == kinds[-rows:]


@FEW
@given(widths=st.lists(st.floats(1, 200), max_size=4), others=st.integers(0, 15), seed=st.integers(0, 99))
def test_an_image_at_the_centre_of_the_source_is_the_sources_however_wide_places_are(widths, others, seed):
    generator = torch.Generator().manual_seed(seed)
    centres = [8 * torch.randn(DIMENSIONS, generator=generator).double() for _ in widths]
    places = [HOME, *(Place(centre, width, 64) for centre, width in zip(centres, widths, strict=True))]
    seen = torch.cat([cloud(others, 7.0, 7.0, seed), torch.zeros(1, DIMENSIONS, dtype=torch.float64)])

    assert routed(places, seen)[-1] == 0
    assert followed(places, seen, 0)[-1] == 0


@FEW
@given(off=st.floats(-3, 3), width=st.floats(10, 90), seed=st.integers(0, 99))
def test_images_of_a_narrow_domain_inside_a_wide_one_are_its_own(off, width, seed):
    narrow, wide = learnt(20.0), Place(torch.full((DIMENSIONS,), 20.0 + off, dtype=torch.float64), width, 256)
    request = torch.cat([cloud(8, 20.0, seed=seed), cloud(8, 20.0 + off, width**0.5, seed + 1)])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))

    found = routed([HOME, narrow, wide], request[order])

    assert found == [1 if row < 8 else 2 for row in order]
    assert followed([HOME, narrow, wide], request[:1], 0) == [1]


@FEW
@given(before=st.integers(1, 15), shown=st.integers(1, 6), seed=st.integers(0, 99))
def test_images_before_a_change_are_judged_without_those_after_it(before, shown, seed):
    seen = torch.cat([cloud(before, seed=seed), cloud(shown, 9.0, seed=seed + 1)])[-RECENT:]

    found = followed([HOME, learnt(9.0)], seen, 0)

    assert found == [0] * (len(seen) - shown) + [1] * shown


def drawn(seed):
    """Return places, a few of them far out or wide, images that lie about them in one order or another, and a place."""
    rng = torch.Generator().manual_seed(seed)

    def one_of(*values):
        return values[int(torch.randint(len(values), (), generator=rng))]

    def normal(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    far = one_of(0.5, 1.5, 3.0, 10.0, 300.0)
    places = [HOME] + [
        Place(far * one_of(0.3, 1) * normal(DIMENSIONS), one_of(1.0, 1.5, 9.0, 50.0), one_of(1, 4, 64, 900))
        for _ in range(one_of(0, 1, 3, 8))
    ]
    count, length, off = one_of(1, 2, 3, 7, 16, 17, 40), one_of(1, 2, 5, 40), one_of(0, 0, 0.5, 2) * normal(DIMENSIONS)
    width = one_of(0.1, 0.7, 1.0, 1.3, 3.0)
    turns = [one_of(*places) for _ in range(count)]
    shown = [turns[row // length] for row in range(count)]
    images = torch.stack([place.centre + off + width * place.spread**0.5 * normal(DIMENSIONS) for place in shown])
    return places, images, one_of(*range(len(places)))


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 2**31))
def test_images_are_told_apart_as_they_are_by_hand(seed):
    places, images, current = drawn(seed)

    assert last_part(images).tolist() == by_hand.cut(images, LIMIT)[-1].tolist()
    assert routed(places, images) == by_hand.route(places, images, LIMIT)
    assert followed(places, images, current) == by_hand.follow(places, images, current, LIMIT)
