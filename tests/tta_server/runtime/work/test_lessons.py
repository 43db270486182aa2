"""Windows that are learnt from while others are answered: as if there had been no others."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.states import bits
from tests.tta_server.runtime.fakes import Wired, ask, bright, dark, rows, wired
from tests.tta_server.runtime.told_apart import domains, telling
from tta_server.runtime.work.trial import Trial
from tta_server.streams.lesson import Lesson

KINDS = {"dark": dark, "bright": bright, "home": rows}
asked = st.lists(st.tuples(st.sampled_from(list(KINDS)), st.integers(1, 24)), max_size=6)


def striped(count: int) -> np.ndarray:
    """Images that are like neither."""
    images = dark(count)
    images[..., ::2] = 255
    return images


def take(subject: Wired) -> list[Lesson]:
    """Take the windows that are due, once no domain waits to be begun."""
    while (lessons := subject.worker.lessons.take(time.monotonic())) and lessons[0].purpose == "begin":
        subject.worker.lessons.carry_out(subject.worker.lessons.work_out(lessons))
    return lessons


def beside(subject: Wired, lessons: list) -> list[Trial]:
    """Work lessons out as the server does: on a thread of their own."""
    found: list[Trial] = []
    thread = threading.Thread(target=lambda: found.extend(subject.worker.lessons.work_out(lessons)))
    thread.start()
    thread.join()
    return found


@settings(max_examples=15, deadline=None)
@given(before=asked, meanwhile=asked)
def test_a_step_comes_to_the_same_whatever_is_answered_meanwhile(before, meanwhile):
    waits, goes_on = telling(), telling()
    for subject in (waits, goes_on):
        for seed, (kind, count) in enumerate([("dark", 16), *before]):
            ask(subject, "door", KINDS[kind](count, seed))
    lessons = take(waits)
    waits.worker.lessons.carry_out(waits.worker.lessons.work_out(lessons))

    lessons = take(goes_on)
    learning = [lesson.stream for lesson in lessons]
    answered = [stream.version for stream in learning]
    for seed, (kind, count) in enumerate(meanwhile, 100):
        ask(goes_on, "door", KINDS[kind](count, seed))
    assert [stream.version for stream in learning] == answered
    goes_on.worker.lessons.carry_out(beside(goes_on, lessons))

    for stream in learning:
        expected = waits.worker.parts.registry.existing(stream.name)
        assert (stream.version, stream.steps, stream.learnt) == (expected.version, expected.steps, expected.learnt)
        assert bits(stream.state) == bits(expected.state)
        assert bits(stream.memory) == bits(expected.memory)


def test_books_balance_when_a_step_and_answers_overlap():
    subject = wired(window=4)
    ask(subject, "door", rows(4))
    lessons = take(subject)
    ask(subject, "door", rows(6, 1))
    subject.worker.lessons.carry_out(beside(subject, lessons))

    summary = subject.commands.read("door")

    assert (summary["images"], summary["images_learnt"], summary["images_in_window"]) == (10, 4, 6)
    assert summary["steps"] == 1


@pytest.mark.parametrize("learning", [True, False])
def test_a_domain_that_learns_is_not_spared_for_another(learning):
    subject = telling(domains=2)
    ask(subject, "door", dark(16))
    lessons = take(subject) if learning else []

    for number, images in enumerate((bright(8), striped(8))):
        ask(subject, "door", images, request_id=str(number))

    assert domains(subject) == (["door@1", "door@3"] if learning else ["door@2", "door@3"])
    if learning:
        subject.worker.lessons.carry_out(beside(subject, lessons))
        assert subject.worker.parts.registry.existing("door@1").steps == 1


def test_a_stream_that_is_set_aside_meanwhile_stays_aside(tmp_path):
    subject = wired(window=4, storage=str(tmp_path))
    for name in ("door", "gate"):
        ask(subject, name, rows(4))
    lessons = take(subject)
    assert len(lessons) == 2
    subject.worker.parts.registry.set_aside("door", ValueError("damaged"))

    subject.worker.lessons.carry_out(beside(subject, lessons))

    assert subject.commands.read("gate")["steps"] == 1
    assert "door" in subject.worker.parts.registry._aside
    failed = [entry for entry in subject.audited() if entry.event == "failed"]
    assert [(entry.stream, entry.reason) for entry in failed] == [
        ("door", "the stream was set aside while a step was worked out")
    ]


def test_no_stream_goes_to_disk_while_windows_are_learnt_from(tmp_path):
    subject = wired(window=4, storage=str(tmp_path), max_bytes=1)
    ask(subject, "door", rows(4))
    lessons = take(subject)
    ask(subject, "gate", rows(1))
    registry = subject.worker.parts.registry
    assert registry.in_memory("door")

    subject.worker.lessons.carry_out(beside(subject, lessons))

    assert not registry.in_memory("door")
    assert subject.stream("door").steps == 1


def test_a_domain_that_learns_is_not_begun_anew_meanwhile():
    subject = telling(engine={"window_min_rows": 4, "window_max_age_s": 0.01})
    ask(subject, "door", dark(8))
    domain = subject.worker.parts.registry.existing("door@1")
    time.sleep(0.02)
    lessons = take(subject)
    assert [lesson.stream for lesson in lessons] == [domain]
    assert domain.begun < 12
    before = domain.state, domain.version

    ask(subject, "door", dark(12, 1))

    assert (domain.state, domain.version) == before
    subject.worker.lessons.carry_out(beside(subject, lessons))
    assert domain.steps == 1


@pytest.mark.parametrize("learning", [True, False])
def test_domains_that_have_become_alike_are_merged_once_neither_learns(learning):
    subject = telling()
    for kind in (dark, bright):
        ask(subject, "door", kind(16))
    registry = subject.worker.parts.registry
    registry.existing("door@2").place = registry.existing("door@1").place
    lessons = take(subject) if learning else []
    assert bool(lessons) is learning

    ask(subject, "door", dark(16, 2))
    assert len(domains(subject)) == (2 if learning else 1)

    subject.worker.lessons.carry_out(beside(subject, lessons))
    ask(subject, "door", dark(16, 3))
    assert len(domains(subject)) == 1


def test_a_newcomer_that_learns_gives_way_to_nobody():
    subject = wired(window=4, max_streams=1)
    ask(subject, "first", rows(4))
    later = time.monotonic() + 3600
    lessons = subject.worker.lessons.take(later)

    subject.worker.parts.newcomers.make_room("", later)
    assert "first" in subject.worker.parts.registry

    subject.worker.lessons.carry_out([])
    subject.worker.parts.newcomers.make_room("", later)
    assert lessons
    assert "first" not in subject.worker.parts.registry


@pytest.mark.parametrize("wrong", [ValueError("no groups today"), SystemExit(1)])
def test_whatever_goes_wrong_in_a_step_is_the_steps(monkeypatch, wrong):
    def fails(_lessons):
        raise wrong

    subject = wired(window=4)
    ask(subject, "door", rows(4))
    monkeypatch.setattr(subject.worker.parts.learner, "work_out", fails)

    subject.worker.learn(time.monotonic())

    summary = subject.commands.read("door")
    assert (summary["steps"], summary["images_dropped"]) == (0, 4)


@pytest.mark.parametrize("take", [True, False])
def test_after_a_step_that_fails_others_are_taken(monkeypatch, take):
    subject = wired(window=4)
    ask(subject, "door", rows(4))
    target = subject.worker.parts.learner
    verb = "_lesson" if take else "_carry_out"
    with monkeypatch.context() as patch:
        patch.setattr(target, verb, lambda *_: 1 / 0)
        subject.worker.learn(time.monotonic())
    assert subject.commands.read("door")["images_dropped"] == 4

    ask(subject, "door", rows(4, 1))
    subject.worker.learn(time.monotonic())

    assert subject.commands.read("door")["steps"] == 1
    assert not subject.worker.parts.registry.learning
