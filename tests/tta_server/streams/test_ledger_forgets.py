"""What the ledger forgets, and what that costs."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from tests.tta_server.streams.test_ledger import add, answers, ledger
from tta_server.streams.ledger import Ledger

ASKED = st.tuples(st.sampled_from("abcdef"), st.sampled_from(("door", "gate", "hall")))


@given(events=st.lists(ASKED | st.sampled_from(("door", "gate")), max_size=60))
def test_what_is_kept_is_the_newest_of_what_no_stream_forgot(events):
    books, kept = Ledger(10**6), list[tuple[str, str]]()  # the oldest first
    for event in events:
        if isinstance(event, str):
            books.forget(event)
            kept = [one for one in kept if one[1] != event]
        else:
            add(books, *event, [1])
            kept = [*(one for one in kept if one != event), event]

    for name in "abcdef":
        assert books.streams_of(name) == [stream for id, stream in kept if id == name]
    assert books._requests == len(answers(books)) == len(kept)
    assert books._theirs == {
        stream: theirs for stream in ("door", "gate", "hall") if (theirs := {id for id, of in kept if of == stream})
    }


class Unlooked(OrderedDict):
    """Refuses a look at all that is in it."""

    def __iter__(self):
        raise AssertionError("all were looked at")

    items = keys = values = __iter__


def test_a_stream_that_goes_costs_no_look_at_the_answers_of_others():
    books = ledger("mine", "too")
    add(books, "another", "gate", [1])
    books._answers = Unlooked(books._answers)

    books.forget("gate")
    books.forget("unheard of")

    assert len(books._answers) == 2
