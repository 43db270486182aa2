"""Whose answers are credible, without labels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tta_server.guard.streams import all_images, clean, foggy, model
from tta_server.guard.referee import Referee
from tta_server.models import Output


@pytest.fixture(scope="module")
def referee():
    return Referee(model().reference)


def frozen(x):
    return model().backbone.forward(x)


def test_nearly_all_answers_at_home_are_credible_and_few_where_most_are_wrong(referee):
    near, far = (referee.credible(frozen(x)).double().mean() for x in (clean(0, 512), foggy(clean(0, 512))))

    assert near > 0.85
    assert far < near - 0.2


def test_a_class_that_lies_far_out_is_credible_too(referee):
    images, labels = all_images()

    shares = [referee.credible(frozen(images[labels == label])).double().mean() for label in range(36)]

    assert min(shares) > 0.6


def test_an_answer_that_is_sure_of_itself_is_not_credible_where_no_source_image_lies(referee):
    home = frozen(clean(0, 64))

    assert not referee.credible(Output(100 * home.logits, home.features + 100)).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), share=st.floats(0, 1))
def test_who_stands_where_swaps_with_the_models_and_only_differences_count(seed, share):
    referee, generator = Referee(model().reference), torch.Generator().manual_seed(seed)
    home = frozen(clean(0, 64))
    turned = torch.rand(64, 1, generator=generator) < share
    # Features that are a little other ones: the models are two.
    other = Output(torch.where(turned, home.logits.roll(1, 1), home.logits), home.features + 1e-6)

    score, swapped = referee.score(other, home), referee.score(home, other)

    assert (score.stream, score.frozen, score.differ) == (swapped.frozen, swapped.stream, swapped.differ)
    assert max(score) == score.differ <= int(turned.sum())
    assert referee.score(home, home) == (0, 0, 0)


def test_a_method_that_only_relabels_is_no_surer_than_the_network_is_of_its_labels():
    referee = Referee(model().reference)
    home = frozen(clean(0, 64))
    relabelled = Output(100 * home.logits.roll(1, 1), home.features)

    score = referee.score(relabelled, home)

    assert score.stream == 0
    assert score.frozen > 0.8 * score.differ


def test_the_frozen_model_stands_better_at_home_than_one_whose_statistics_are_of_one_class(referee):
    images, labels = all_images()
    backbone = model().backbone
    own = backbone.forward(images[labels == 3], statistics="batch")

    score = referee.score(own, frozen(images[labels == 3]))

    assert (own.logits.argmax(1) != 3).double().mean() > 0.2  # else there is nothing to see
    assert score.frozen > score.stream
