"""Names that anybody may open: who makes up many keeps nobody out, and healthy cameras are never turned away."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tta_server.runtime.fakes import WHO, Wired, ask, learn_all, queued, rows, wired
from tests.tta_server.runtime.test_aside import Broken
from tta_server.errors import StreamsFull
from tta_server.runtime.work.parts import Parts

LATER_S = 1e6


def names(subject: Wired) -> list[str]:
    return [each["name"] for each in subject.commands.list().streams]


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
    with pytest.raises(StreamsFull, match="holds its 3 streams already"):
        ask(subject, "one more", rows(1))  # none of them rests yet

    ask_later(subject, "one more")

    assert names(subject) == ["learnt", "new", "one more"]


def test_what_an_operator_has_touched_stays():
    subject = wired(max_streams=2)
    for name in ("named", "changed"):
        ask(subject, name, rows(1))
    subject.commands.change("changed", "shadow", None, WHO)
    subject.commands.reset("named", WHO)

    with pytest.raises(StreamsFull):
        ask_later(subject, "another")

    assert names(subject) == ["changed", "named"]


def opened(parts: Parts, name: str, client: str, now_s: float) -> bool:
    """Ask for a stream; returns whether the server had a place for it, which it must if one is free."""
    known, free = name in parts.registry, len(parts.registry) < parts.newcomers._most
    try:
        parts.newcomers.visit(name, client, now_s)
        parts.registry.open(name, now_s)
    except StreamsFull:
        assert not known, name
        assert not free, name
        return False
    return True


@given(
    most=st.integers(2, 9),
    flooders=st.sampled_from([("flood",), ("fleet",), ("fleet", "flood"), tuple("abcdefghi")]),
    early=st.booleans(),
    rounds=st.lists(st.tuples(st.integers(0, 12), st.floats(0.1, 30)), min_size=1, max_size=5),
)
@settings(max_examples=15, deadline=None)
def test_cameras_that_never_learn_are_not_refused_whoever_makes_up_names(most, flooders, early, rounds):
    """They are at most half of all streams, have one client, and are asked each minute.

    Those that are there before the names stay, even if the names are of their own client; if one other client makes
    the names, they may come later, too.
    """
    parts, now_s = wired(max_streams=most).worker.parts, time.monotonic()
    cameras = [f"camera-{number}" for number in range(most // 2)]
    if flooders != ("flood",) or early:
        assert all(opened(parts, camera, "fleet", now_s) for camera in cameras)
    made = 0
    for count, pause_s in rounds:
        for _ in range(count):
            opened(parts, f"name-{made}", flooders[made % len(flooders)], now_s)
            made += 1
        assert all(opened(parts, camera, "fleet", now_s) for camera in cameras)
        assert all(parts.registry.summary(camera) for camera in cameras)
        now_s += pause_s
        assert len(parts.newcomers) == len(parts.registry) <= most


def test_a_whole_fleet_of_one_client_may_take_every_place_and_gives_what_is_over_half_to_others():
    subject = wired(max_streams=4)
    for name in "abcd":
        ask(subject, name, rows(1), client="fleet")
    with pytest.raises(StreamsFull) as error:
        ask(subject, "e", rows(1), client="fleet")

    for name in "xy":
        ask(subject, name, rows(1), client="other")
    with pytest.raises(StreamsFull):
        ask(subject, "z", rows(1), client="other")

    assert names(subject) == ["a", "b", "x", "y"]
    assert (error.value.code, error.value.retry_after_s) == ("streams_full", 10)


def test_an_operator_finds_a_place_too():
    subject = wired(max_streams=2)
    for name in "ab":
        ask(subject, name, rows(1), client="fleet")
    state = subject.commands.states.export("a")

    subject.commands.create("new", None, None, WHO)  # of the two, "b" came last
    subject.commands.delete("a", WHO)
    ask(subject, "c", rows(1), client="fleet")
    with pytest.raises(StreamsFull):  # it has no more than half
        subject.commands.states.adopt("brought", state, WHO)

    assert names(subject) == ["c", "new"]


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


def test_a_stream_that_another_server_has_now_is_no_newcomer():
    subject = wired()
    subject.commands.hold("a", 1, there=False)
    ask(subject, "a", rows(1), client="one")

    subject.commands.drop("a", 1)

    assert len(subject.worker.parts.newcomers) == 0


def test_one_that_cannot_be_erased_is_set_aside_and_the_others_go():
    subject = wired(expire_s=100)
    for name in "abc":
        ask(subject, name, rows(1))
    subject.stream("b").window = Broken()

    subject.worker.park_idle(time.monotonic() + LATER_S, 0)

    assert [(each["name"], bool(each["trouble"])) for each in subject.commands.list().streams] == [("b", True)]
