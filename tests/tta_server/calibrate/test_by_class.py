"""What classes explain is as far from what they truly add as it is said to be."""

import pytest
import torch
from hypothesis import given, settings, strategies
from torch.testing import assert_close

from tta_server.calibrate.by_class import by_class


def drawn(classes: int, most: int, between: float, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return one score of images (N, 1), their classes, and what each class truly adds (K, 1)."""
    generator = torch.Generator().manual_seed(seed)
    adds = between * torch.randn(classes, 1, generator=generator, dtype=torch.float64)
    counts = torch.randint(most + 1, (classes,), generator=generator)
    predicted = torch.arange(classes).repeat_interleave(counts)
    return adds[predicted] + torch.randn(len(predicted), 1, generator=generator, dtype=torch.float64), predicted, adds


@pytest.mark.parametrize("between", [0.5, 1.0, 2.0])
def test_the_doubt_is_how_far_the_offset_is_from_the_truth(between):
    scores, predicted, adds = drawn(5000, 8, between, seed=1)

    offsets, doubts = by_class(scores, predicted, len(adds))

    assert float((offsets - adds).square().mean()) == pytest.approx(float(doubts.mean()), rel=0.15)
    unseen = predicted.bincount(minlength=len(adds)) == 0
    assert (offsets[unseen] == 0).all()
    assert float(doubts[unseen].mean()) == pytest.approx(between**2, rel=0.15)


def test_of_many_images_the_offset_is_the_mean_of_the_class_and_in_no_doubt():
    scores, _, adds = drawn(5, 0, 1.0, seed=2)
    predicted = torch.arange(5).repeat(4000)
    scores = adds[predicted] + 0.1 * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))

    offsets, doubts = by_class(scores, predicted, 5)

    means = torch.stack([scores[predicted == each].mean(0) for each in range(5)])
    assert_close(offsets, (means - scores.mean(0)).double(), atol=1e-4, rtol=1e-3)
    assert doubts.max() < 1e-4


@settings(max_examples=50, deadline=None)
@given(
    strategies.integers(1, 6),
    strategies.lists(strategies.integers(0, 5), min_size=1, max_size=30),
    strategies.integers(0, 99),
    strategies.floats(-100, 100),
    strategies.floats(0.01, 100),
)
def test_a_shift_changes_nothing_a_scale_scales_and_nothing_is_ever_negative_or_not_finite(
    more, read, seed, shift, scale
):
    predicted, classes = torch.tensor(read), 5 + more
    scores = torch.randn(len(read), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    offsets, doubts = by_class(scores, predicted, classes)
    other_offsets, other_doubts = by_class(scale * scores + shift, predicted, classes)

    assert offsets.shape == doubts.shape == (classes, 3)
    assert offsets.isfinite().all()
    assert (doubts >= 0).all()
    assert_close(other_offsets, scale * offsets, atol=1e-6 * scale, rtol=1e-6)
    assert_close(other_doubts, scale**2 * doubts, atol=1e-6 * scale**2, rtol=1e-6)


@pytest.mark.parametrize("read", [[0] * 20, list(range(20))], ids=["one class", "each once"])
def test_classes_explain_nothing_where_nobody_can_tell(read):
    offsets, doubts = by_class(torch.randn(20, 3), torch.tensor(read), 20)

    assert not offsets.any()
    assert not doubts.any()
