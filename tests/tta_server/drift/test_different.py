import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.drift import different as subject

FEW = settings(deadline=None, max_examples=40)
UNLIKE = 1.0


def cloud(n, dimensions=200, width=1.0, seed=0):
    return width * np.random.default_rng(seed).standard_normal((n, dimensions))


def different(values, *more):
    return subject.different(values @ values.T / values.shape[1], *more)


@FEW
@given(pictures=st.integers(1, 12), copies=st.integers(1, 6), noise=st.floats(0, 0.1), seed=st.integers(0, 99))
def test_a_picture_counts_once_however_often_it_is_shown(pictures, copies, noise, seed):
    shown = np.tile(cloud(pictures, seed=seed), (copies, 1))
    shown += cloud(len(shown), width=noise, seed=seed + 1)

    assert different(shown, UNLIKE) == pytest.approx(pictures, rel=0.05)
    assert different(shown[::-1], UNLIKE) == pytest.approx(different(shown, UNLIKE))


@FEW
@given(n=st.integers(1, 40), width=st.floats(0, 3), dimensions=st.integers(1, 60), seed=st.integers(0, 99))
def test_there_are_never_more_different_pictures_than_images_nor_fewer_than_one(n, width, dimensions, seed):
    assert 1 - 1e-9 <= different(cloud(n, dimensions, width, seed), UNLIKE) <= n + 1e-9


@FEW
@given(n=st.integers(1, 20), kinds=st.integers(1, 5), seed=st.integers(0, 99))
def test_images_of_two_kinds_are_never_alike(n, kinds, seed):
    one = np.repeat(cloud(1, seed=seed), n * kinds, axis=0)

    assert different(one, UNLIKE, np.arange(n * kinds) % kinds) == pytest.approx(kinds)


@FEW
@given(n=st.integers(1, 12), dimensions=st.integers(1, 9), unlike=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_it_is_what_each_pair_says(n, dimensions, unlike, seed):
    values = cloud(n, dimensions, seed=seed)

    alike = [max(0.0, 1 - float(np.mean((one - other) ** 2)) / unlike) for one in values for other in values]

    assert different(values, unlike) == pytest.approx(n**2 / sum(alike))
