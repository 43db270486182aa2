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


class Says:
    def __init__(self, stream: int, frozen: int, differ: int) -> None:
        self.said = Score(stream, frozen, differ)

    def score(self, answered, frozen):
        return self.said


def source_answers(said: Says, images: int, vouched: bool = False) -> bool:
    output = Output(torch.zeros(images, 4), torch.zeros(images, 3))
    compare = Compare(GuardSettings(), said, lambda _x, _frozen: vouched)
    return compare.begin(Record.fresh(4), torch.zeros(images, 1), output, output).source


@pytest.mark.parametrize("images", [1, 4, 16, 64])
def test_in_doubt_the_frozen_model_answers(images):
    assert source_answers(Says(0, 0, images), images)


@pytest.mark.parametrize("images", [1, 4, 16, 64])
def test_a_stream_whose_statistics_are_determined_is_not_in_doubt(images):
    assert not source_answers(Says(0, 0, images), images, vouched=True)


def test_where_both_say_the_same_nothing_is_in_doubt():
    assert not source_answers(Says(0, 0, 0), 16)


@given(differ=st.integers(0, 64), data=st.data())
@settings(max_examples=200)
def test_a_stream_that_is_credible_and_more_often_than_the_frozen_model_answers(differ, data):
    stream = data.draw(st.integers(-(-differ // 50), differ))
    frozen = data.draw(st.integers(0, stream))

    assert not source_answers(Says(stream, frozen, differ), 64)


@given(stream=st.integers(0, 32), more=st.integers(1, 32))
@settings(max_examples=100)
def test_a_stream_that_the_frozen_model_beats_does_not(stream, more):
    for vouched in (False, True):
        assert source_answers(Says(stream, stream + more, 64), 64, vouched)
