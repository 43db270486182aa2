"""Domains that have not learnt yet are begun beside answers, with what waits in their windows: no answer waits."""

import itertools
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.states import bits
from tests.tta_server.runtime.fakes import WHO, Scripted, Wired, ask, bright, dark, learn_all, rows, shed_all, tiny
from tests.tta_server.runtime.told_apart import frozen, telling
from tta_server.models import Backbone
from tta_server.streams.stream import Stream

KINDS = {"dark": dark, "bright": bright, "home": rows}
asked = st.lists(st.tuples(st.sampled_from(list(KINDS)), st.integers(1, 24)), max_size=6)


def domain(subject: Wired, name: str = "door@1") -> Stream:
    return subject.worker.parts.registry.existing(name)


def seen(domain: Stream) -> torch.Tensor:
    """Return what waits in its window, as the network is given it."""
    return torch.from_numpy(np.concatenate([row.image for row in domain.window])).float() / 255


def counted(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the images that are shown to a network, by verb."""
    found: Counter[str] = Counter()
    for verb in ("forward", "styles"):
        run = getattr(backbone, verb)

        def count(x: torch.Tensor, *rest: object, run=run, verb: str = verb, **named: object) -> object:
            found[verb] += len(x)
            return run(x, *rest, **named)

        monkeypatch.setattr(backbone, verb, count)
    return found


def test_an_answer_shows_each_image_to_the_network_at_most_twice_whatever_is_to_be_begun(monkeypatch):
    backbone = tiny()
    subject = telling(backbone=backbone)
    ask(subject, "gate", rows(1))  # which tries the network
    found = counted(backbone, monkeypatch)

    for seed, count in enumerate((1, 1, 2, 3, 5, 8)):
        ask(subject, "door", dark(count, seed))

    assert domain(subject).begun == 0
    assert found["styles"] == 20
    assert found["forward"] <= 20


@pytest.mark.parametrize("learns", [False, True])
def test_where_the_frozen_model_answers_a_domain_each_image_is_shown_to_it_once(monkeypatch, learns: bool):
    backbone = tiny()
    subject = telling(backbone=backbone, judge=Scripted(("commit/source",)))
    ask(subject, "door", dark(16))
    if learns:
        learn_all(subject)
    found = counted(backbone, monkeypatch)

    for seed, count in enumerate((1, 4, 8), 1):
        ask(subject, "door", dark(count, seed))

    assert (domain(subject).steps, domain(subject).present.answers) == (learns, "source")
    assert found == {"styles": 13}


def test_a_domain_answers_with_the_statistics_of_what_it_has_seen_once_it_is_begun():
    subject = telling()
    first = ask(subject, "door", dark(6))
    assert np.array_equal(first.probabilities, frozen(dark(6)))

    learn_all(subject)
    begun = domain(subject)
    expected = begun.method.adapter.begin(tiny(), begun.method.initial, seen(begun))
    second = ask(subject, "door", dark(2, 1))

    assert (begun.begun, begun.steps, begun.version, len(begun.window)) == (6, 0, 1, 8)
    assert bits(begun.state) == bits(expected)
    assert second.adapted
    assert not np.allclose(second.probabilities, frozen(dark(2, 1)), atol=1e-3)


def test_it_is_begun_anew_only_once_it_has_seen_half_as_many_again():
    subject, begun = telling(window=64), []
    for seed in range(30):
        ask(subject, "door", dark(1, seed))
        learn_all(subject)
        begun.append(domain(subject).begun if "door@1" in subject.worker.parts.registry else 0)

    sizes = sorted(set(begun) - {0})
    assert len(sizes) >= 5
    assert all(later >= 1.5 * earlier for earlier, later in itertools.pairwise(sizes))


@settings(max_examples=15, deadline=None)
@given(before=asked, meanwhile=asked)
def test_a_beginning_comes_to_the_same_whatever_is_answered_meanwhile(before, meanwhile):
    subject = telling(window=256)
    for seed, (kind, count) in enumerate([("dark", 8), *before]):
        ask(subject, "door", KINDS[kind](count, seed))
    (lesson,) = subject.worker.lessons.take(time.monotonic())
    held = lesson.stream.state
    expected = lesson.method.adapter.begin(tiny(), lesson.method.initial, seen(lesson.stream))

    for seed, (kind, count) in enumerate(meanwhile, 100):
        ask(subject, "door", KINDS[kind](count, seed))
        assert lesson.stream.state is held
    waiting = len(lesson.stream.window)
    subject.worker.lessons.carry_out(subject.worker.lessons.work_out([lesson]))

    assert bits(lesson.stream.state) == bits(expected)
    assert (lesson.stream.begun, lesson.stream.steps) == (len(lesson.rows), 0)
    assert len(lesson.stream.window) == waiting
    assert lesson.stream.learnt == 0


def test_beginnings_and_windows_take_turns_though_windows_are_due_all_the_time():
    subject = telling()
    ask(subject, "rare", dark(12))
    taken = []
    for seed in range(6):
        ask(subject, "busy", dark(16, seed + 1))
        lessons = subject.worker.lessons.take(time.monotonic())
        taken.append((lessons[0].stream.name, lessons[0].purpose))
        subject.worker.lessons.carry_out(subject.worker.lessons.work_out(lessons))

    assert taken[:3] == [("rare@1", "begin"), ("busy@1", "learn"), ("busy@1", "learn")]
    assert domain(subject, "rare@1").begun == 12
    assert domain(subject, "busy@1").steps >= 4


def test_where_every_window_is_dropped_whole_a_domain_is_begun_all_the_same():
    subject = telling(adapt_when="drift")
    for seed in range(3):
        ask(subject, "door", dark(16, seed))
        learn_all(subject)

    assert domain(subject).begun == 16


@pytest.mark.parametrize("change", ["reset", "mode"])
def test_a_domain_that_starts_again_is_the_frozen_models_until_it_is_weighed_anew(change):
    subject = telling(judge=Scripted(("commit",)), mode="shadow" if change == "mode" else "after")
    ask(subject, "door", dark(4))
    if change == "mode":
        subject.commands.change("door", "after", None, WHO)
    else:
        learn_all(subject)
        assert not domain(subject).answers_as_source
        domain(subject).reset()
    assert domain(subject).answers_as_source
    assert domain(subject).present.answers == "source"

    ask(subject, "door", dark(4, 1))
    learn_all(subject)

    assert domain(subject).begun
    assert not domain(subject).answers_as_source


def test_a_beginning_that_cannot_even_be_set_out_is_not_tried_again_at_once(monkeypatch):
    subject, tried = telling(), []
    ask(subject, "door", dark(4))
    monkeypatch.setattr("tta_server.runtime.work.learner.on_device", lambda *_: tried.append(1) or 1 / 0)

    learn_all(subject)

    assert len(tried) == 1
    assert domain(subject).present.answers == "source"


def test_until_the_guard_has_weighed_it_the_frozen_model_answers_for_a_domain():
    subject = telling(judge=Scripted(("commit",)))
    answer = ask(subject, "door", dark(4))
    assert (domain(subject).present.answers, answer.adapted) == ("source", False)

    learn_all(subject)

    assert domain(subject).serve == Scripted(("commit",)).weigh({}, torch.empty(0), None, None)[1]


def test_a_beginning_that_fails_costs_nothing_and_is_tried_again_with_more_images(tmp_path: Path, monkeypatch):
    subject = telling(storage=str(tmp_path))
    ask(subject, "door", dark(4))
    stands, tried = domain(subject).standing, []

    def broken(_self: object, _backbone: object, _state: object, x: torch.Tensor) -> None:
        tried.append(len(x))
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(type(domain(subject).method.adapter), "begin", broken)
    learn_all(subject)
    for seed in range(1, 5):
        ask(subject, "door", dark(1, seed))
        learn_all(subject)

    assert tried == [4, 6]
    assert (domain(subject).version, len(domain(subject).window)) == (stands.version, 8)
    failed = [entry for entry in subject.audited() if entry.event == "failed"]
    assert [entry.stream for entry in failed] == ["door@1"] * 2
    summary = subject.worker.parts.registry.summary("door@1")
    assert (summary.images_dropped, summary.images_in_window) == (0, 8)


def test_a_domain_that_is_gone_or_set_aside_meanwhile_is_not_begun():
    subject = telling()
    ask(subject, "door", dark(4))
    lessons = subject.worker.lessons.take(time.monotonic())
    trials = subject.worker.lessons.work_out(lessons)
    subject.worker.parts.registry.set_aside("door@1", ValueError("damaged"))

    subject.worker.lessons.carry_out(trials)

    assert lessons[0].stream.begun == 0


def test_where_there_is_no_time_a_domain_stays_as_it_is():
    subject = telling()
    ask(subject, "door", dark(4))

    shed_all(subject)

    assert (domain(subject).begun, len(domain(subject).window)) == (0, 4)
    ask(subject, "door", dark(1, 1))
    learn_all(subject)
    assert domain(subject).begun == 5
