"""Labels that come later, and what they say of a stream."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

import tta_server.streams.ledger as module
from tests.tta_server.runtime.fakes import rows
from tta_server.streams.event import StreamEvent
from tta_server.streams.ledger import UNASKED, Answered, Label, Ledger, wilson
from tta_server.streams.stream import Standing

IMAGE_BYTES = rows(1).nbytes


def always(answer: int):
    return lambda images: np.full(len(images), answer)


def never(_):
    raise AssertionError("the source was asked")


def add(books: Ledger, name: str, stream: str, predicted: list[int], source: list[int] | None = None) -> None:
    """Add an answer; the frozen model was not asked unless it is said what it sees."""
    unasked = [UNASKED] * len(predicted)
    books.add(name, stream, np.array(predicted), np.array(source or unasked), rows(len(predicted)))


def label(books: Ledger, name: str, stream: str, place: int, true: int, ask: Callable) -> str | None:
    (found,) = books.label([Label(name, place, true, stream)], ask)
    return found


def ledger(*ids: str, most: int = 10**6, stream: str = "door") -> Ledger:
    filled = Ledger(most)
    for name in ids:
        add(filled, name, stream, [1, 2])
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

    assert label(books, "r1", "door", 0, 1, always(2)) == "door"
    assert label(books, "r1", "door", 1, 1, always(1)) == "door"

    found = books.accuracy("door")
    assert (found["adapted"]["labels"], found["adapted"]["accuracy"]) == (2, 0.5)
    assert (found["source"]["labels"], found["source"]["accuracy"]) == (2, 0.5)
    assert found["adapted"]["low"] < 0.5 < found["adapted"]["high"]


def test_the_source_is_asked_about_the_image_that_the_label_is_of():
    asked = []
    books = ledger("r1")

    label(books, "r1", "door", 1, 1, lambda images: asked.extend(images) or np.array([1]))

    assert np.array_equal(asked, [rows(2)[1:]])


def test_the_source_is_asked_once_about_all_the_images_that_it_has_not_seen():
    asked = []
    books = Ledger(10**6)
    add(books, "r1", "door", [1, 2, 3], [UNASKED, 2, UNASKED])
    add(books, "r2", "door", [1])

    labels = [("r1", 2, 3), ("r1", 1, 2), ("r1", 2, 3), ("r2", 0, 1), ("r3", 0, 1)]

    found = books.label(
        [Label(*each, "door") for each in labels], lambda images: asked.append(images) or np.array([3, 0])
    )

    assert found == ["door", "door", None, "door", None]
    assert [np.concatenate(images).tolist() for images in asked] == [np.stack([rows(3)[2], rows(1)[0]]).tolist()]
    told = books.accuracy("door")
    assert (told["adapted"]["accuracy"], told["source"]["accuracy"]) == (1, 2 / 3)


def test_nothing_counts_if_the_source_fails():
    books = ledger("r1")

    with pytest.raises(AssertionError, match="the source was asked"):
        books.label([Label("r1", 0, 1, "door"), Label("r1", 1, 1, "door")], never)

    assert books.accuracy("door")["answered"] == {"labels": 0}
    assert label(books, "r1", "door", 0, 1, always(1)) == "door"


def test_what_the_source_answered_needs_no_image():
    books = Ledger(10**6)
    add(books, "r1", "door", [1, 2], [1, 2])

    for index in range(2):
        assert label(books, "r1", "door", index, 1, never) == "door"

    assert books.accuracy("door")["source"] == books.accuracy("door")["adapted"]
    assert books.accuracy("door")["source"]["accuracy"] == 0.5


@pytest.mark.parametrize(("request_id", "index"), [("r2", 0), ("r1", 2), ("r1", -1)])
def test_a_label_of_nothing_that_was_answered_counts_for_nobody(request_id, index):
    books = ledger("r1")

    assert label(books, request_id, "door", index, 1, never) is None
    assert books.accuracy("door") == {of: {"labels": 0} for of in ("answered", "adapted", "source")}


def test_a_network_may_have_more_classes_than_fit_into_two_bytes():
    books = Ledger(10**6)
    add(books, "r1", "door", [3, 70_000], [3, 70_000])

    assert label(books, "r1", "door", 1, 70_000, never) == "door"

    assert books.accuracy("door")["adapted"]["accuracy"] == 1


def test_an_image_is_labelled_once():
    books = ledger("r1")
    label(books, "r1", "door", 0, 1, always(1))

    assert label(books, "r1", "door", 0, 1, never) is None
    assert books.accuracy("door")["adapted"]["labels"] == 1


def test_past_the_budget_images_go_and_answers_stay():
    books = ledger("r1", "r2", "r3", most=4 * IMAGE_BYTES)

    assert label(books, "r1", "door", 0, 1, never) == "door"
    assert label(books, "r3", "door", 0, 1, always(1)) == "door"

    found = books.accuracy("door")
    assert [found[of]["labels"] for of in ("answered", "adapted", "source")] == [2, 1, 1]


def test_both_are_compared_on_the_same_images_whichever_are_gone():
    """Images that the source answered need not be kept, so that its labels would be of the easy ones."""
    books = Ledger(2 * IMAGE_BYTES)
    add(books, "home", "door", [1, 1], [1, 1])
    add(books, "gone", "door", [2, 0])
    add(books, "half", "door", [2, 1], [UNASKED, 1])
    add(books, "last", "door", [2])

    for name, true in (("home", [1, 1]), ("gone", [2, 2]), ("half", [2, 1]), ("last", [2])):
        books.label([Label(name, place, one, "door") for place, one in enumerate(true)], always(0))

    found = books.accuracy("door")
    assert (found["answered"]["labels"], found["answered"]["accuracy"]) == (7, 6 / 7)
    assert (found["adapted"]["labels"], found["adapted"]["accuracy"]) == (5, 1)
    assert (found["source"]["labels"], found["source"]["accuracy"]) == (5, 3 / 5)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), max_size=40), st.integers(0, 12))
def test_the_budget_is_never_exceeded(requests, images):
    books = Ledger(images * IMAGE_BYTES)

    for name, count in requests:
        add(books, str(name), "door", [0] * count)
        held = sum(each.images.nbytes for each in answers(books) if each.images is not None)
        assert books._bytes == held <= images * IMAGE_BYTES


def test_the_oldest_answers_go_first(monkeypatch):
    monkeypatch.setattr(module, "_MOST_REQUESTS", 2)
    books = ledger("r1", "r2", "r3")

    assert label(books, "r1", "door", 0, 1, never) is None
    assert label(books, "r2", "door", 0, 1, always(1)) == "door"


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["door", "yard"]), st.booleans()), max_size=40))
def test_no_more_requests_are_kept_than_there_is_room_for(requests):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_REQUESTS", 5)
        books = Ledger(10**6)

        for name, stream, by_source in requests:
            add(books, str(name), stream, [0], [0] if by_source else None)

            assert books._requests == len(answers(books)) <= 5
            theirs = {of: {id for id in map(str, range(5)) if of in books.streams_of(id)} for of in ("door", "yard")}
            assert books._theirs == {of: ids for of, ids in theirs.items() if ids}
            assert books.streams_of(str(name))[-1] == stream
            assert {*books._with_images} == {each for each in answers(books) if UNASKED in each.source}


def test_an_answer_with_a_known_id_takes_the_place_of_the_others_of_its_stream():
    books = ledger("r1")

    add(books, "r1", "door", [3])

    assert label(books, "r1", "door", 0, 3, always(0)) == "door"
    assert label(books, "r1", "door", 1, 2, never) is None


def test_an_id_that_another_stream_uses_too_is_of_each_of_them():
    books = ledger("r1")

    add(books, "r1", "yard", [3])

    assert books.streams_of("r1") == ["door", "yard"]
    assert label(books, "r1", "door", 1, 2, always(0)) == "door"
    assert label(books, "r1", "yard", 0, 3, always(0)) == "yard"
    books.forget("yard")
    assert books.streams_of("r1") == ["door"]


def test_what_is_forgotten_of_a_stream_leaves_the_others():
    books = ledger("r1", "r2")
    add(books, "r3", "yard", [0])
    for name in ("r1", "r3"):
        label(books, name, books.streams_of(name)[0], 0, 1, always(1))

    books.forget("door")

    assert label(books, "r2", "door", 0, 1, never) is None
    assert books.accuracy("door")["adapted"] == {"labels": 0}
    assert books.accuracy("yard")["adapted"]["labels"] == 1
    assert books._bytes == IMAGE_BYTES


def labelled(own: int, source: int, both: int = 0) -> Ledger:
    """Return books with labels of images on which one alone of the two was right, and of some on which both were."""
    books = Ledger(10**6)
    say(books, [(1, 0)] * own + [(0, 1)] * source + [(1, 1)] * both)
    return books


def say(books: Ledger, answers: list[tuple[int, int]], stream: str = "door") -> None:
    """Have a stream and the frozen model answer so, and say that 1 is right."""
    add(books, "r", stream, [own for own, _ in answers], [source for _, source in answers])
    books.label([Label("r", place, 1, stream) for place in range(len(answers))], never)


@given(own=st.integers(0, 300), source=st.integers(0, 300), both=st.integers(0, 300))
def test_what_a_stream_gains_is_weighed_by_the_images_on_which_one_alone_is_right(own, source, both):
    found = labelled(own, source, both).gain_sigmas("door")

    if own + source + both:
        chance = math.sqrt((own + source) / 4) or 1  # of a fair coin, as often as one alone was right
        assert found == pytest.approx((own - (own + source) / 2) / chance)
    else:
        assert found is None


def test_one_label_says_next_to_nothing_and_ten_that_agree_much():
    assert labelled(0, 1).gain_sigmas("door") == -1
    assert labelled(0, 10).gain_sigmas("door") < -3


def test_a_label_of_which_the_frozen_model_is_not_known_is_not_weighed():
    books = Ledger(0)
    add(books, "r1", "door", [1])

    label(books, "r1", "door", 0, 1, never)

    assert books.gain_sigmas("door") is None
    assert books.accuracy("door")["answered"]["labels"] == 1


def test_the_last_thousand_labels_count_so_that_a_fall_shows_and_is_over_again():
    books = labelled(1000, 0)

    say(books, [(0, 1)] * 1000)

    assert books.accuracy("door")["adapted"]["accuracy"] == 0
    assert books.accuracy("door")["answered"]["labels"] == 1000
    assert books.gain_sigmas("door") == -math.sqrt(1000)


@pytest.mark.parametrize("name", ["door", "door@2"])
@pytest.mark.parametrize(("kind", "cause", "kept"), [
    ("reset", "operator", 0), ("rollback", "operator", 0), ("restore", "operator", 0), ("import", "operator", 0),
    ("mode", "operator", 5), ("reset", "periodic", 5), ("rollback", "canary", 5),
])  # fmt: skip
def test_labels_count_anew_once_an_operator_has_a_stream_go_on_from_elsewhere(name, kind, cause, kept):
    books = labelled(0, 5)
    say(books, [(0, 1)], "yard")

    books.hear(StreamEvent(name, kind, Standing(0), Standing(0), cause=cause))

    assert books.accuracy("door")["adapted"]["labels"] == kept
    assert books.accuracy("yard")["adapted"]["labels"] == 1


def test_labels_that_come_late_say_nothing_of_a_stream_that_was_reset_since():
    books = Ledger(10**6)
    add(books, "r1", "door", [1], [1])
    books.hear(StreamEvent("door", "reset", Standing(0), Standing(0), cause="operator"))
    add(books, "r2", "door", [1], [1])

    for request in ("r1", "r2"):
        label(books, request, "door", 0, 1, never)

    assert books.accuracy("door")["answered"]["labels"] == 1
