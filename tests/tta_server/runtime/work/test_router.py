"""A stream is a set of domains: each image is answered by the domain that it looks like, and only that one learns."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.states import bits
from tests.tta_server.runtime.fakes import (
    ask,
    bright,
    dark,
    is_due,
    learn_all,
    queued,
    rows,
    tiny,
    value,
    wired,
)
from tests.tta_server.runtime.told_apart import SCRIPT, domains, frozen, show, telling
from tta_server import adapters
from tta_server.names import domain_name, is_domain, number_of, stream_of_domain
from tta_server.runtime.job import HOME, Job
from tta_server.streams.ledger import Label

KINDS = {"home": rows, "dark": dark, "bright": bright}
"""Inputs that a stream may show; the first is what the network was trained on."""


# Where images go
def test_what_looks_like_the_source_is_answered_as_the_frozen_model_does_and_not_learnt_from():
    subject = telling()

    for seed in range(8):
        answer = ask(subject, "door", rows(16, seed))
        assert np.array_equal(answer.probabilities, frozen(rows(16, seed)))
        assert (answer.domains, answer.version, answer.adapted) == ((HOME,) * 16, 0, False)
    assert not is_due(subject)
    assert domains(subject) == []
    assert subject.stream("door").version == 0


def test_what_looks_strange_opens_a_domain_at_once_and_comes_back_to_it():
    subject = telling()
    ask(subject, "door", rows(16))

    first = ask(subject, "door", dark(8))
    other = ask(subject, "door", bright(8))
    learn_all(subject)
    home = ask(subject, "door", rows(16, 1))
    again = ask(subject, "door", dark(8, 1))

    assert [set(answer.domains) for answer in (first, other, home, again)] == [
        {"door@1"},
        {"door@2"},
        {HOME},
        {"door@1"},
    ]
    assert [answer.adapted for answer in (first, other, home, again)] == [False, False, False, True]
    assert subject.stream("door@1").steps == 0
    assert not np.allclose(again.probabilities, frozen(dark(8, 1)), atol=1e-3)  # its statistics are in use already


def test_a_request_that_shows_two_kinds_is_answered_image_by_image_in_its_own_order():
    subject = telling()
    ask(subject, "door", dark(16))
    order = np.random.default_rng(0).permutation(32)
    mixed = np.concatenate([rows(16, 1), dark(16, 1)])[order]

    answer = ask(subject, "door", mixed)

    assert list(answer.domains) == [HOME if place < 16 else "door@1" for place in order]
    assert np.allclose(answer.probabilities[order < 16], frozen(mixed)[order < 16], atol=1e-5)
    assert answer.probabilities.shape == (32, 4)


def test_images_that_the_frozen_model_has_seen_are_not_kept_for_labels():
    subject = telling()
    ledger = subject.worker.parts.ledger
    ask(subject, "door", dark(16), request_id="first")  # it may be at home, so that the frozen model is asked
    learn_all(subject)
    ask(subject, "door", dark(16, 1), request_id="second")
    learn_all(subject)
    assert ask(subject, "door", dark(16, 2), request_id="strange").domains == ("door@1",) * 16
    answer = ask(subject, "door", np.concatenate([rows(8, 1), dark(8, 2)]), request_id="mixed")

    asked = []
    for name, count in (("first", 16), ("strange", 16), ("mixed", 16)):
        labels = [Label(name, place, 0, "door") for place in range(count)]
        ledger.label(labels, lambda x: asked.append(x) or [0] * len(x))

    assert answer.domains == (HOME,) * 8 + ("door@1",) * 8
    assert [len(images) for images in asked] == [16, 8]
    assert np.array_equal(np.concatenate(asked[1]), dark(8, 2))


def test_single_images_are_judged_with_those_before_them():
    subject = telling()
    for seed in range(4):
        assert ask(subject, "door", rows(1, seed)).domains == (HOME,)

    found = [ask(subject, "door", dark(1, seed)).domains[0] for seed in range(12)]

    assert found[-4:] == ["door@1"] * 4
    assert domains(subject) == ["door@1"]


def test_images_that_are_no_numbers_are_at_home_and_change_nothing():
    subject = telling()
    ask(subject, "door", dark(16))
    waiting = len(subject.stream("door@1").window)
    broken = (dark(16, 1) / 255).astype(np.float32)
    broken[3] = np.nan
    job = queued("door", broken, 0.0)

    subject.worker.answer([job])

    assert job.future.exception() is not None
    after = subject.stream("door@1")
    assert len(after.window) == waiting
    assert after.place.centre.isfinite().all()


@pytest.mark.parametrize("keys", [{"adapter": adapters.create("tent", stats="batch")}, {"mode": "inline"}])
def test_rows_that_one_forward_must_see_together_stay_together(keys):
    subject = telling(**keys)
    mixed = np.concatenate([rows(6, 1), dark(10, 1)])
    ask(subject, "door", dark(16))

    answer = ask(subject, "door", mixed)

    assert len(set(answer.domains)) == 1


# Who learns
def test_only_the_domain_of_a_window_learns_and_its_window_holds_its_images_alone():
    subject = telling()
    ask(subject, "door", dark(8))
    ask(subject, "door", bright(8))
    learn_all(subject)
    assert {len(subject.stream(name).window) for name in ("door@1", "door@2")} == {8}
    held = subject.stream("door@2").state

    ask(subject, "door", np.concatenate([dark(8, 1), rows(8, 1)]))
    learn_all(subject)

    assert subject.stream("door@1").steps == 1
    assert subject.stream("door@2").steps == 0
    assert subject.stream("door@2").state is held


def test_the_first_step_starts_from_the_source_and_not_from_what_the_domain_was_begun_with():
    subject = telling()
    for seed in range(2):
        ask(subject, "door", dark(8, seed))
    stream = subject.stream("door@1")
    window = torch.cat([torch.from_numpy(row.image) for row in stream.window]).float() / 255
    method = stream.method

    learn_all(subject)

    expected = method.adapter.adapt(tiny(), method.initial, window).state
    assert bits(stream.state) == bits(expected)


def test_every_offered_image_of_a_domain_is_learnt_from_or_waits():
    subject = telling()
    for seed in range(5):
        ask(subject, "door", dark(9, seed))
    learn_all(subject)

    stream = subject.stream("door@1")
    assert stream.images == 45
    assert stream.learnt + sum(stream.dropped.values()) + len(stream.window) == 45
    assert subject.stream("door").learnt == stream.learnt


def test_in_the_shadow_domains_learn_and_the_frozen_model_answers():
    subject = telling(mode="shadow")
    for seed in range(2):
        answer = ask(subject, "door", dark(16, seed))
        learn_all(subject)
        assert np.allclose(answer.probabilities, frozen(dark(16, seed)), atol=1e-6)
        assert not answer.adapted
    assert subject.stream("door@1").steps == 2


def test_a_stream_that_is_off_is_not_told_apart():
    subject = telling(mode="off")

    answer = ask(subject, "door", dark(16))

    assert answer.domains == ()
    assert domains(subject) == []


# Bounds
def test_a_stream_has_no_more_domains_than_it_may_and_the_idlest_goes():
    subject = telling(domains=2)
    lamps = [lambda n, s, c=c: np.clip(rows(n, s) // 8 + 30 * c, 0, 255).astype(np.uint8) for c in range(8)]

    for seed, lamp in enumerate(lamps):
        ask(subject, "door", lamp(16, seed))
        assert len(domains(subject)) <= 2
        assert len(subject.worker.parts.registry.every_stream_in_memory()) <= 3

    numbers = [number_of(name) for name in domains(subject)]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 2  # a number is never given twice


def test_domains_are_no_streams_to_lists_and_limits():
    subject = telling(max_streams=1)
    ask(subject, "door", dark(16))

    assert [one["name"] for one in subject.commands.list().streams] == ["door"]
    assert len(subject.worker.parts.registry) == 1


# Streams beside one another
@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(sorted(KINDS)), st.sampled_from([1, 8, 16])),
        min_size=1,
        max_size=12,
    )
)
def test_a_stream_is_told_apart_as_if_it_were_alone(script: list[tuple[str, str, int]]):
    together = telling()
    alone = {name: telling() for name in "ab"}

    for seed, (name, kind, count) in enumerate(script):
        images = KINDS[kind](count, seed)
        for subject in (together, alone[name]):
            ask(subject, name, images)
            learn_all(subject)

    for name, subject in alone.items():
        assert [stream_of_domain(one) for one in domains(subject, name)] == [name] * len(domains(subject, name))
        assert domains(together, name) == domains(subject, name)
        for domain in domains(subject, name):
            assert bits(together.stream(domain).state) == bits(subject.stream(domain).state)


def test_requests_of_several_streams_are_told_apart_in_one_group():
    subject, names = telling(), "abcd"
    for name in names:
        for seed in range(2):
            ask(subject, name, dark(16, seed))
        learn_all(subject)
    jobs = [queued(name, KINDS[kind](4, 7), 0.0) for name, kind in zip(names, ["dark", "home"] * 2, strict=True)]

    assert len({subject.worker.grouping()(job) for job in jobs}) == 1
    subject.worker.answer(jobs)

    assert all(job.future.result(0).probabilities.shape == (4, 4) for job in jobs)


def test_a_network_that_fails_fails_the_request_and_no_other(monkeypatch: pytest.MonkeyPatch):
    subject = telling()
    router = subject.worker.parts.router
    assert router is not None
    usual = router._look

    def fails(jobs: list[Job], whole: bool) -> dict:
        if any(job.stream == "bad" for job in jobs):
            raise RuntimeError("no look today")
        return usual(jobs, whole)

    monkeypatch.setattr(router, "_look", fails)
    jobs = [queued(name, rows(4), 0.0) for name in ("good", "bad", "fine")]

    subject.worker.answer(jobs)

    assert [job.future.exception() is None for job in jobs] == [True, False, True]


def counted(subject) -> list[float]:
    """Return how many images were answered by forwards, and by how many."""
    return [value(subject.metrics, f"tta_batch_size_images_{what}") for what in ("sum", "count")]


@pytest.mark.parametrize("apart", [True, False])
def test_each_image_that_is_answered_counts_once_and_each_forward_that_answers(monkeypatch, apart):
    subject = telling()
    router = subject.worker.parts.router
    findings = dataclasses.replace(router._backbone.findings, apart=apart)
    monkeypatch.setattr(type(router._backbone), "findings", findings)
    subject.worker.answer([queued(name, rows(4), 0.0) for name in ("one", "other")])
    assert counted(subject) == [8, 1 if apart else 2]  # the look answered them

    ask(subject, "door", np.concatenate([rows(6), dark(10)]))
    assert counted(subject)[0] == 8 + 16
    learn_all(subject)
    before = counted(subject)
    answer = ask(subject, "door", dark(8, 1))

    assert set(answer.domains) == {"door@1"}
    assert counted(subject) == [before[0] + 8, before[1] + 1]  # none by the look


def test_versions_grow_by_one_with_whatever_a_domain_does():
    subject = telling()
    seen = [answer.version for answer in show(subject, SCRIPT)]

    assert seen == sorted(seen)
    assert subject.stream("door").version == sum(subject.stream(name).version for name in domains(subject))


def test_without_a_style_streams_learn_in_the_shadow(caplog: pytest.LogCaptureFixture):
    subject = wired(domains=16, window=4, styleless=True)

    answer = ask(subject, "door", dark(4))
    learn_all(subject)

    assert np.array_equal(answer.probabilities, frozen(dark(4)))
    assert subject.stream("door").mode == "shadow"
    assert subject.stream("door").steps == 1
    assert "calibrate" in caplog.text


# Names
@given(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True), st.integers(1, 10**6))
def test_a_domain_s_name_says_its_stream_and_number(stream: str, number: int):
    name = domain_name(stream, number)

    assert (stream_of_domain(name), number_of(name), is_domain(name), is_domain(stream)) == (
        stream,
        number,
        True,
        False,
    )
