"""One piece of work at a time on another thread."""

import threading
import weakref

import pytest

from tests.tta_server.runtime.engines import PATIENCE_S, until
from tta_server.runtime.queue.companion import Companion


def at_hand() -> tuple[Companion, threading.Event]:
    done = threading.Event()
    return Companion("work", done.set), done


def test_what_the_work_makes_is_handed_back_once():
    companion, done = at_hand()
    gate = threading.Event()
    assert companion.state == "idle"

    companion.begin(lambda: gate.wait(PATIENCE_S) and threading.current_thread().name)
    assert companion.state == "busy"
    gate.set()
    assert done.wait(PATIENCE_S)

    assert companion.state == "done"
    assert companion.outcome() == "work"
    assert companion.state == "idle"
    assert companion.outcome() is None


def test_what_it_raises_is_raised_where_it_is_fetched_and_the_next_is_done():
    companion, done = at_hand()
    companion.begin(lambda: 1 / 0)
    assert done.wait(PATIENCE_S)

    with pytest.raises(ZeroDivisionError):
        companion.outcome()

    done.clear()
    companion.begin(lambda: 2)
    assert done.wait(PATIENCE_S)
    assert companion.outcome() == 2


def test_it_says_how_long_the_work_at_hand_has_taken():
    companion, done = at_hand()
    gate, entered = threading.Event(), threading.Event()
    companion.begin(lambda: (entered.set(), gate.wait(PATIENCE_S)))
    assert entered.wait(PATIENCE_S)
    assert companion.pulse.busy_s() > 0

    gate.set()
    assert done.wait(PATIENCE_S)
    assert companion.pulse.busy_s() == 0


def test_what_is_left_behind_is_done_and_thrown_away():
    companion, done = at_hand()
    gate = threading.Event()
    companion.begin(lambda: gate.wait(PATIENCE_S))

    companion.leave()

    assert companion.state == "idle"
    gate.set()
    assert done.wait(PATIENCE_S)
    assert companion.outcome() is None


def test_a_thread_that_is_closed_ends_and_holds_nothing():
    companion, done = at_hand()
    companion.begin(type("Found", (), {}))
    assert done.wait(PATIENCE_S)
    gone = weakref.ref(companion.outcome())
    until(lambda: gone() is None)

    companion.close()

    until(lambda: not companion._thread.is_alive())
