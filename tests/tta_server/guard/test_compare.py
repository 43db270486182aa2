"""Who answers: a stream that has something to show for itself, and otherwise what a user has asked for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.guard.compare import Compare
from tta_server.guard.record import Record
from tta_server.guard.referee import Score
from tta_server.models import Output
from tta_server.settings import GuardSettings

CLASSES = 4


class Says:
    """A referee of fixed opinions, to whom the frozen model is credible on some share of the images, or on none."""

    def __init__(self, stream: int, frozen: int, differ: int, credible: float = 0.75) -> None:
        self.said, self.share = Score(stream, frozen, differ), credible

    def score(self, answered, frozen):
        return self.said

    def credible(self, output):
        return torch.arange(len(output.logits)) < self.share * len(output.logits)


def reading(images: int, classes: int) -> Output:
    """What the frozen model says of images, of which it takes as many for each of so many classes."""
    logits = torch.nn.functional.one_hot(torch.arange(images) % classes, CLASSES).float()
    return Output(logits, torch.zeros(images, 3))


def source_answers(said: Says, images: int, vouched: bool = False, classes: int = CLASSES, windows: int = 0) -> bool:
    """Whether it answers before the first step, or after so many windows."""
    output, x = reading(images, classes), torch.zeros(images, 1)
    compare = Compare(GuardSettings(), said, lambda _x, _frozen: vouched)
    record = compare.begin(Record.fresh(CLASSES), x, output, output)
    for _ in range(windows):
        record = compare.look(record, x, output, output)
    return record.source


@pytest.mark.parametrize("images", [1, 4, 16, 64])
def test_in_doubt_the_frozen_model_answers(images):
    assert source_answers(Says(0, 0, images), images)


@pytest.mark.parametrize("images", [1, 4, 16, 64])
def test_a_stream_whose_statistics_are_determined_is_not_in_doubt(images):
    assert not source_answers(Says(0, 0, images), images, vouched=True)


def test_where_nothing_is_to_gain_the_frozen_model_answers_at_first():
    says = Says(0, 0, 0)

    assert source_answers(says, 64, vouched=True)
    assert not source_answers(says, 64, vouched=True, windows=3)


@given(differ=st.integers(1, 64), data=st.data())
@settings(max_examples=200)
def test_a_stream_that_is_credible_and_as_often_as_the_frozen_model_answers(differ, data):
    stream = data.draw(st.integers(-(-differ // 50), differ))
    frozen = data.draw(st.integers(0, stream))

    assert not source_answers(Says(stream, frozen, differ), 64)


@given(differ=st.integers(1, 64), classes=st.integers(1, 2), vouched=st.booleans(), data=st.data())
@settings(max_examples=200)
def test_at_first_a_stream_of_few_classes_must_be_ahead(differ, classes, vouched, data):
    stream = data.draw(st.integers(-(-differ // 50), differ))
    frozen = data.draw(st.integers(0, stream))
    ahead = (stream - frozen) / (stream + frozen + 4) >= 0.15

    assert source_answers(Says(stream, frozen, differ), 64, vouched, classes) is not ahead
    assert not source_answers(Says(stream, frozen, differ, credible=0.4), 64, vouched, classes)  # lost, not of few


def test_a_stream_of_few_classes_that_is_known_may_be_level():
    draw = Says(10, 10, 20)

    assert source_answers(draw, 64, classes=1)
    assert source_answers(draw, 64, classes=1, windows=1)
    assert not source_answers(draw, 64, classes=1, windows=3)


@given(differ=st.integers(1, 64), classes=st.integers(1, CLASSES), vouched=st.booleans(), data=st.data())
@settings(max_examples=200)
def test_at_first_a_stream_must_be_further_ahead_where_the_frozen_model_is_sure(differ, classes, vouched, data):
    stream = data.draw(st.integers(-(-differ // 50), differ))
    frozen = data.draw(st.integers(0, stream))
    ahead = (stream - frozen) / (stream + frozen + 4) >= 0.25
    sure = Says(stream, frozen, differ, credible=0.9)

    assert source_answers(sure, 64, vouched, classes) is not ahead
    assert not source_answers(sure, 64, vouched, classes, windows=3)


@given(stream=st.integers(0, 32), more=st.integers(1, 32))
@settings(max_examples=100)
def test_a_stream_that_the_frozen_model_beats_does_not(stream, more):
    for vouched in (False, True):
        assert source_answers(Says(stream, stream + more, 64), 64, vouched)
