"""Canary and memory of any labelled set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.calibrate import kept
from tta_server.calibrate.mixed import Mixed

COUNTS = st.lists(st.integers(0, 9), min_size=2, max_size=30).filter(sum)


def mixed(counts: list[int], labelled: bool = True) -> Mixed:
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    return Mixed.of(images, labels if labelled else None, np.random.default_rng(0))


def canary_of(counts: list[int], most: int = 20) -> np.ndarray:
    try:
        return kept.canary(mixed(counts), len(counts), most, np.random.default_rng(0))
    except ValueError:
        return np.empty(0, np.int64)


@given(counts=COUNTS, most=st.integers(1, 100))
@settings(deadline=None)
def test_a_canary_is_large_enough_and_leaves_half_of_every_class_that_has_two(counts, most):
    rows = canary_of(counts, most)

    shown = np.bincount(mixed(counts).labels[rows], minlength=len(counts))
    assert len(set(rows)) == len(rows)
    assert len(rows) == 0 or min(most, kept.LEAST_CANARY) <= len(rows) <= max(most, 2 * kept.LEAST_CANARY)
    assert all(taken <= max(1, count // 2) for taken, count in zip(shown, counts, strict=True))


@given(counts=COUNTS, most=st.integers(1, 100))
@settings(deadline=None)
def test_a_memory_has_each_class_and_no_canary_or_is_refused(counts, most):
    data, rows = mixed(counts), canary_of(counts)
    free = np.setdiff1d(np.arange(len(data)), rows)
    each = set(data.labels[free]) == set(range(len(counts)))

    if not each:
        with pytest.raises(ValueError, match="needs an image of each class beside the canary's"):
            kept.memory(data, len(counts), free, most, np.random.default_rng(0))
        return
    remembered = kept.memory(data, len(counts), free, most, np.random.default_rng(0))

    assert not set(remembered) & set(rows)
    assert set(data.labels[remembered]) == set(range(len(counts)))
    assert np.bincount(data.labels[remembered]).max() <= max(1, most // len(counts))


@given(classes=st.integers(kept.LEAST_CANARY, 200))
@settings(deadline=None, max_examples=20)
def test_one_image_a_class_is_enough_for_a_canary(classes):
    assert len(canary_of([1] * classes)) >= kept.LEAST_CANARY


@given(lonely=st.integers(0, 50), more=st.integers(kept.LEAST_CANARY, 20))
@settings(deadline=None, max_examples=20)
def test_classes_with_one_image_keep_it_for_the_memory_if_others_can_spare_some(lonely, more):
    rows = canary_of([1] * lonely + [4] * more)

    assert mixed([1] * lonely + [4] * more).labels[rows].min() >= lonely


def test_without_labels_neither_is_made():
    data, rng = mixed([5] * 4, labelled=False), np.random.default_rng(0)

    with pytest.raises(ValueError, match="needs labels"):
        kept.canary(data, 4, 20, rng)
    with pytest.raises(ValueError, match="needs labels"):
        kept.memory(data, 4, np.arange(len(data)), 20, rng)
