"""What operators may do to streams."""

import time

import numpy as np
import pytest

from tests.states import bits
from tests.tta_server.runtime.fakes import WHO, Scripted, Wired, ask, is_due, learn_all, rows, value, wired
from tests.tta_server.runtime.taught import frozen, images_of, taught
from tta_server.errors import Conflict, NotFound, Overloaded


# Create
def test_a_created_stream_is_there_before_its_first_request():
    subject = wired()

    told = subject.commands.create("door", "shadow", subject.method("bn"), WHO)

    assert (told["mode"], told["adapter"], told["state_version"], told["images"]) == ("shadow", "bn", 0, 0)
    assert subject.commands.list().streams[0]["name"] == "door"


def test_a_created_stream_has_the_configured_mode_unless_told_otherwise():
    subject = wired(named={"door": {"mode": "inline"}})

    assert subject.commands.create("door", None, None, WHO)["mode"] == "inline"
    assert subject.commands.create("yard", None, None, WHO)["mode"] == "after"


def test_a_stream_is_created_once_also_if_it_is_on_disk():
    subject = taught()
    subject.commands.evict("door")

    with pytest.raises(Conflict, match="exists already"):
        subject.commands.create("door", None, None, WHO)


def test_no_stream_is_created_beyond_the_limit():
    subject = wired(max_streams=1)
    subject.commands.create("door", None, None, WHO)

    with pytest.raises(Overloaded):
        subject.commands.create("yard", None, None, WHO)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("nothing", {}), ("tent", {"lr": "fast"}), ("adanpc", {})],
)
def test_a_stream_is_not_created_with_an_adapter_that_does_not_fit(name, settings):
    subject = wired()

    with pytest.raises(ValueError, match=name):
        subject.commands.create("door", None, subject.method(name, **settings), WHO)

    assert subject.commands.list().streams == []


# Change
def test_a_mode_is_switched_and_what_was_learnt_stays():
    subject = taught()
    learnt, state = images_of_only(subject), bits(subject.stream("door").state)

    subject.commands.change("door", "off", None, WHO)
    assert np.array_equal(images_of_only(subject), frozen(rows(4, 99)))

    subject.commands.change("door", "after", None, WHO)
    assert bits(subject.stream("door").state) == state
    assert np.array_equal(images_of_only(subject), learnt)
    assert not np.array_equal(learnt, frozen(rows(4, 99)))


def test_a_window_that_waits_is_learnt_from_only_while_the_mode_says_so():
    subject = wired()
    ask(subject, "door", rows(4))

    subject.commands.change("door", "off", None, WHO)
    assert not is_due(subject)

    subject.commands.change("door", "after", None, WHO)
    learn_all(subject)
    assert subject.steps() == {"door": 1}


def test_other_settings_of_the_same_layout_keep_the_state_and_its_version():
    subject = taught()
    before = bits(subject.stream("door").state)

    told = subject.commands.change("door", None, subject.method("tent", lr=1e-4), WHO)

    assert bits(subject.stream("door").state) == before
    assert (told["state_version"], told["steps"], told["versions_kept"]) == (3, 3, [1, 2, 3])
    assert subject.stream("door").method.adapter.lr == 1e-4


@pytest.mark.parametrize(("name", "settings"), [("bn", {}), ("tent", {"optimizer": "adam"})])
def test_another_layout_starts_from_the_source_under_a_new_version(name, settings):
    subject = taught()
    ask(subject, "door", rows(2))

    told = subject.commands.change("door", None, subject.method(name, **settings), WHO)

    assert (told["state_version"], told["steps"], told["versions_kept"]) == (4, 0, [])
    assert (told["images_in_window"], told["dropped"]) == (0, {"reset": 2})
    assert np.array_equal(images_of(subject), frozen(rows(4, 99)))
    learn_all(subject)
    assert subject.steps() == {"door": 1}


def test_settings_that_do_not_fit_change_nothing():
    subject = taught()
    before = subject.commands.read("door")

    with pytest.raises(ValueError, match="has no setting 'speed'"):
        subject.commands.change("door", "off", subject.method("tent", speed=1), WHO)

    assert subject.commands.read("door") == before


def test_a_mode_that_is_set_lifts_a_freeze():
    subject = taught(judge=Scripted(("rollback",)))
    assert subject.commands.read("door")["frozen"]

    told = subject.commands.change("door", "after", None, WHO)

    assert (told["mode"], told["frozen"]) == ("after", "")
    assert value(subject.metrics, "tta_stream_frozen", stream="door") == 0


# Rollback
def test_a_rollback_gives_exactly_the_answers_of_its_version():
    subject = wired(window=4)
    said = {}
    for seed in range(4):
        said[subject.commands.read("door")["state_version"] if seed else 0] = images_of_only(subject)
        ask(subject, "door", rows(4, seed))
        learn_all(subject)

    for version in (2, 1, 3):
        told = subject.commands.rollback("door", version, WHO)
        assert told["steps"] == version
        assert np.array_equal(images_of_only(subject), said[version])
    assert told["state_version"] == 7


def images_of_only(subject: Wired) -> np.ndarray:
    """Answer without leaving anything to learn from."""
    answer = ask(subject, "door", rows(4, 99)).probabilities
    subject.worker.shed(time.monotonic())
    return answer


def test_a_rollback_without_a_version_goes_to_the_newest_other_one_that_passed():
    subject = taught(judge=Scripted(("pass", "pass", "pass")))

    assert subject.commands.rollback("door", None, WHO)["steps"] == 2


def test_a_rollback_to_what_is_not_kept_says_what_is():
    subject = taught()

    with pytest.raises(NotFound, match=r"keeps no version 9; it keeps 1, 2, 3"):
        subject.commands.rollback("door", 9, WHO)
    with pytest.raises(NotFound, match="that passed the guard's complete check"):
        subject.commands.rollback("door", None, WHO)

    assert subject.stream("door").version == 3


def test_a_rollback_works_on_a_stream_that_is_on_disk():
    subject = taught()
    expected = bits(subject.stream("door").history.find(1).state)
    subject.commands.evict("door")

    subject.commands.rollback("door", 1, WHO)

    assert bits(subject.stream("door").state) == expected
