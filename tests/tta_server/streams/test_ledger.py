"""Labels that come later, and what they say of a stream."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

import tta_server.streams.ledger as module
from tests.tta_server.runtime.fakes import rows
from tta_server.streams.ledger import Answered, Ledger, wilson

IMAGE_BYTES = rows(1).nbytes


def always(answer: int):
    return lambda images: np.full(len(images), answer)


def never(_):
    raise AssertionError("the source was asked")


def ledger(*ids: str, most: int = 10**6, stream: str = "door") -> Ledger:
    filled = Ledger(most)
    for name in ids:
        filled.add(name, stream, np.array([1, 2]), rows(2))
    return filled


def answers(books: Ledger) -> list[Answered]:
    held = books._answers.values()
    return [each for found in held for each in (found.values() if isinstance(found, dict) else [found])]


@given(count=st.integers(1, 100_000), share=st.floats(0, 1))
def test_the_interval_is_wilsons(count, share):
    right = round(share * count)

    low, high = wilson(right, count)

    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert math.isclose(low, expected.low, abs_tol=1e-9)  # float64 rounding of the same formula
    assert math.isclose(high, expected.high, abs_tol=1e-9)
    assert 0 <= low <= right / count + 1e-9
    assert right / count - 1e-9 <= high <= 1


def test_a_label_counts_for_the_stream_and_for_the_source():
    books = ledger("r1")

    assert books.label("r1", "door", 0, 1, always(2)) == "door"
    assert books.label("r1", "door", 1, 1, always(1)) == "door"

    found = books.accuracy("door")
    assert (found["adapted"]["labels"], found["adapted"]["accuracy"]) == (2, 0.5)
    assert (found["source"]["labels"], found["source"]["accuracy"]) == (2, 0.5)
    assert found["adapted"]["low"] < 0.5 < found["adapted"]["high"]


def test_the_source_is_asked_about_the_image_that_the_label_is_of():
    asked = []
    books = ledger("r1")

    books.label("r1", "door", 1, 1, lambda images: asked.append(images) or np.array([1]))

    assert np.array_equal(asked[0], rows(2)[1:])


def test_what_the_source_answered_needs_no_image():
    books = Ledger(10**6)
    books.add("r1", "door", np.array([1, 2]), None)

    for index in range(2):
        assert books.label("r1", "door", index, 1, never) == "door"

    assert books.accuracy("door")["source"] == books.accuracy("door")["adapted"]
    assert books.accuracy("door")["source"]["accuracy"] == 0.5


@pytest.mark.parametrize(("request_id", "index"), [("r2", 0), ("r1", 2), ("r1", -1)])
def test_a_label_of_nothing_that_was_answered_counts_for_nobody(request_id, index):
    books = ledger("r1")

    assert books.label(request_id, "door", index, 1, never) is None
    assert books.accuracy("door") == {"adapted": {"labels": 0}, "source": {"labels": 0}}


def test_a_network_may_have_more_classes_than_fit_into_two_bytes():
    books = Ledger(10**6)
    books.add("r1", "door", np.array([3, 70_000]), None)

    assert books.label("r1", "door", 1, 70_000, never) == "door"

    assert books.accuracy("door")["adapted"]["accuracy"] == 1


def test_an_image_is_labelled_once():
    books = ledger("r1")
    books.label("r1", "door", 0, 1, always(1))

    assert books.label("r1", "door", 0, 1, never) is None
    assert books.accuracy("door")["adapted"]["labels"] == 1


def test_past_the_budget_images_go_and_answers_stay():
    books = ledger("r1", "r2", "r3", most=4 * IMAGE_BYTES)

    assert books.label("r1", "door", 0, 1, never) == "door"
    assert books.label("r3", "door", 0, 1, always(1)) == "door"

    assert books.accuracy("door")["adapted"]["labels"] == 2
    assert books.accuracy("door")["source"]["labels"] == 1


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), max_size=40), st.integers(0, 12))
def test_the_budget_is_never_exceeded(requests, images):
    books = Ledger(images * IMAGE_BYTES)

    for name, count in requests:
        books.add(str(name), "door", np.zeros(count, int), rows(count))
        held = sum(each.images.nbytes for each in answers(books) if each.images is not None)
        assert books._bytes == held <= images * IMAGE_BYTES


def test_the_oldest_answers_go_first(monkeypatch):
    monkeypatch.setattr(module, "_MOST_REQUESTS", 2)
    books = ledger("r1", "r2", "r3")

    assert books.label("r1", "door", 0, 1, never) is None
    assert books.label("r2", "door", 0, 1, always(1)) == "door"


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["door", "yard"]), st.booleans()), max_size=40))
def test_no_more_requests_are_kept_than_there_is_room_for(requests):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_REQUESTS", 5)
        books = Ledger(10**6)

        for name, stream, by_source in requests:
            books.add(str(name), stream, np.zeros(1, int), None if by_source else rows(1))

            assert books._requests == len(answers(books)) <= 5
            assert books.streams_of(str(name))[-1] == stream
            assert {*books._with_images} == {each for each in answers(books) if not each.by_source}


def test_an_answer_with_a_known_id_takes_the_place_of_the_others_of_its_stream():
    books = ledger("r1")

    books.add("r1", "door", np.array([3]), rows(1))

    assert books.label("r1", "door", 0, 3, always(0)) == "door"
    assert books.label("r1", "door", 1, 2, never) is None


def test_an_id_that_another_stream_uses_too_is_of_each_of_them():
    books = ledger("r1")

    books.add("r1", "yard", np.array([3]), rows(1))

    assert books.streams_of("r1") == ["door", "yard"]
    assert books.label("r1", "door", 1, 2, always(0)) == "door"
    assert books.label("r1", "yard", 0, 3, always(0)) == "yard"
    books.forget("yard")
    assert books.streams_of("r1") == ["door"]


def test_what_is_forgotten_of_a_stream_leaves_the_others():
    books = ledger("r1", "r2")
    books.add("r3", "yard", np.array([0]), rows(1))
    for name in ("r1", "r3"):
        books.label(name, books.streams_of(name)[0], 0, 1, always(1))

    books.forget("door")

    assert books.label("r2", "door", 0, 1, never) is None
    assert books.accuracy("door")["adapted"] == {"labels": 0}
    assert books.accuracy("yard")["adapted"]["labels"] == 1
    assert books._bytes == IMAGE_BYTES
