"""Names that anybody may open: those that never learnt go first, and no client has too many."""

import time

import pytest

from tests.tta_server.runtime.fakes import WHO, Wired, ask, learn_all, queued, rows, wired
from tests.tta_server.runtime.test_aside import Broken
from tta_server.errors import Overloaded

LATER_S = 1e6


def names(subject: Wired) -> list[str]:
    return [each["name"] for each in subject.commands.list()]


def ask_later(subject: Wired, name: str) -> None:
    job = queued(name, rows(1), time.monotonic() + LATER_S)
    subject.worker.answer([job])
    job.future.result(0)


def test_a_full_server_gives_a_new_stream_the_place_of_one_that_never_learnt_and_rests():
    subject = wired(window=4, max_streams=3)
    ask(subject, "learnt", rows(4))
    learn_all(subject)
    for name in ("old", "new"):
        ask(subject, name, rows(1))
    with pytest.raises(Overloaded, match="holds its 3 streams already"):
        ask(subject, "one more", rows(1))  # none of them rests yet

    ask_later(subject, "one more")

    assert names(subject) == ["learnt", "new", "one more"]


def test_what_an_operator_has_touched_stays():
    subject = wired(max_streams=2)
    for name in ("named", "changed"):
        ask(subject, name, rows(1))
    subject.commands.change("changed", "shadow", None, WHO)
    subject.commands.reset("named", WHO)

    with pytest.raises(Overloaded):
        ask_later(subject, "another")

    assert names(subject) == ["changed", "named"]


def test_a_client_has_so_many_that_never_learnt_and_others_are_not_concerned():
    subject = wired(window=4, max_streams=10, max_new_per_client=2)
    for name in "ab":
        ask(subject, name, rows(4), client="one")

    with pytest.raises(Overloaded, match="client 'one' has opened 2 streams that have learnt nothing yet"):
        ask(subject, "c", rows(1), client="one")
    ask(subject, "c", rows(1), client="two")
    ask(subject, "a", rows(1), client="one")
    learn_all(subject)  # now "a" and "b" are more than names
    ask(subject, "d", rows(1), client="one")

    assert names(subject) == ["a", "b", "c", "d"]


def test_a_stream_that_never_learnt_expires_and_one_that_did_does_not():
    subject = wired(window=4, expire_s=100)
    for name, count in (("learnt", 4), ("idle", 1)):
        ask(subject, name, rows(count))
    learn_all(subject)
    subject.worker.park_idle(time.monotonic() + 50, 0)
    assert names(subject) == ["idle", "learnt"]

    subject.worker.park_idle(time.monotonic() + LATER_S, 0)

    assert names(subject) == ["learnt"]
    assert len(subject.worker.parts.newcomers) == 0


def test_one_that_cannot_be_erased_is_set_aside_and_the_others_go():
    subject = wired(expire_s=100)
    for name in "abc":
        ask(subject, name, rows(1))
    subject.stream("b").window = Broken()

    subject.worker.park_idle(time.monotonic() + LATER_S, 0)

    assert [(each["name"], bool(each["trouble"])) for each in subject.commands.list()] == [("b", True)]
