"""Which requests share a forward, and that sharing changes no answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tta_server.runtime.work.answerer as module
from tests.tta_server.runtime.fakes import WHO, Fails, Wired, ask, learn_all, queued, rows, tiny, wired
from tta_server import adapters
from tta_server.guard.judge import Unguarded
from tta_server.models import EMPTY, Output
from tta_server.models.backbone import Statistics, Tensors
from tta_server.runtime.job import Piece
from tta_server.runtime.work.sharing import Sharing
from tta_server.streams.stream import Method


def taught(names: str = "abc", **keys: object) -> Wired:
    """Return a worker whose streams have learnt different things."""
    subject = wired(window=4, **keys)
    for seed, name in enumerate(names):
        ask(subject, name, rows(4, 100 + seed))
    learn_all(subject)
    return subject


def asked(subject: Wired, requests: list[tuple[str, int]]) -> list[Piece]:
    return [
        Piece(queued(name, rows(count, seed), 0.0), subject.worker.parts.registry.open(name, 0.0))
        for seed, (name, count) in enumerate(requests)
    ]


def shape(groups: list[list[Piece]]) -> list[list[str]]:
    """Return the streams of each group."""
    return sorted([part.stream.name for part in group] for group in groups)


def groups(subject: Wired, *requests: tuple[str, int]) -> list[list[str]]:
    return shape(subject.worker.parts.answerer.groups(asked(subject, list(requests))))


# Groups
def test_streams_that_the_source_answers_share_a_forward():
    subject = wired(mode="off")

    assert groups(subject, ("a", 1), ("b", 3), ("a", 2)) == [["a", "b", "a"]]


def test_streams_of_one_method_share_a_forward_and_those_of_another_theirs():
    subject = taught("ab")
    for name in "xy":
        subject.commands.create(name, None, subject.method("tent", lr=0.01), WHO)

    assert groups(subject, ("a", 1), ("x", 1), ("b", 1), ("y", 1)) == [["a", "b"], ["x", "y"]]


def test_streams_that_do_not_stack_answer_by_themselves():
    assert groups(wired(Fails()), ("a", 1), ("b", 1), ("a", 2)) == [["a", "a"], ["b"]]


@pytest.mark.parametrize("keys", [{"adapter": adapters.create("tent", stats="batch")}, {"mode": "inline"}])
def test_requests_whose_rows_are_coupled_answer_alone(keys):
    assert groups(wired(**keys), ("a", 2), ("b", 2), ("a", 2)) == [["a"], ["a"], ["b"]]


def test_a_stream_far_smaller_than_the_others_is_not_padded_to_their_size():
    assert groups(taught("abc"), ("a", 1), ("b", 30), ("c", 1)) == [["a"], ["b", "c"]]


def test_a_stack_may_hold_one_small_stream_among_large_ones():
    assert groups(taught("abc"), ("a", 8), ("b", 8), ("c", 1)) == [["a", "b", "c"]]


requests = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 12)), min_size=1, max_size=14)


@settings(max_examples=40, deadline=None)
@given(requests)
def test_every_request_is_in_one_group_and_at_most_half_of_a_stack_is_padding(wanted):
    subject = shared()
    everything = asked(subject, wanted)

    found = subject.worker.parts.answerer.groups(everything)

    assert sorted(id(one) for group in found for one in group) == sorted(id(one) for one in everything)
    for group in found:
        sizes = dict.fromkeys((part.stream.name for part in group), 0)
        for part in group:
            sizes[part.stream.name] += part.rows
        assert sum(sizes.values()) >= 0.5 * max(sizes.values()) * len(sizes)


_shared: list[Wired] = []


def shared() -> Wired:
    if not _shared:
        _shared.append(taught("abcdef"))
    return _shared[0]


# Answers
@settings(max_examples=25, deadline=None)
@given(requests)
def test_stacked_and_padded_answers_equal_those_of_each_stream(wanted):
    subject = shared()
    alone, adapter = tiny(), subject.worker.parts.methods.default.adapter
    everything = asked(subject, wanted)

    for group in subject.worker.parts.answerer.groups(everything):
        probabilities, entropies, *_ = subject.worker.parts.answerer.answer(group)
        start = 0
        for one in group:
            x = torch.from_numpy(one.images).float() / 255
            expected = adapter.predict(alone, one.stream.state, x).logits.softmax(1).numpy()
            part = slice(start, start + one.rows)
            assert np.allclose(probabilities[part], expected, atol=1e-5)  # float32 in another batch shape
            assert np.allclose(entropies[part], -(expected * np.log(expected)).sum(1), atol=1e-4)
            start += one.rows


def test_streams_that_stack_take_one_forward(monkeypatch):
    calls = []
    original = module.predict_stacked
    monkeypatch.setattr(module, "predict_stacked", lambda *given: calls.append(given[3].shape) or original(*given))
    subject = taught("abc")

    subject.worker.answer([queued(name, rows(count), 0.0) for name, count in (("a", 2), ("b", 3), ("c", 2), ("a", 1))])

    assert calls == [(3, 3, 3, 8, 8)]


def test_mixed_requests_are_answered_each_from_its_own_state():
    subject = taught("abc", named={"off": {"mode": "off"}})
    jobs = [queued(name, rows(3, 7), 0.0) for name in ("a", "off", "b", "c", "off")]

    subject.worker.answer(jobs)

    answers = [job.future.result(0) for job in jobs]
    assert [answer.stream for answer in answers] == ["a", "off", "b", "c", "off"]
    assert [answer.version for answer in answers] == [1, 0, 1, 1, 0]
    assert [answer.adapted for answer in answers] == [True, False, True, True, False]
    assert len({answer.probabilities.tobytes() for answer in answers}) == 4


def test_the_source_says_what_the_frozen_model_says():
    subject = taught("a")

    expected = tiny().forward(torch.from_numpy(rows(9)).float() / 255).logits.argmax(1).numpy()
    assert np.array_equal(subject.worker.parts.answerer.source(np.split(rows(9), 9)), expected)


@pytest.mark.parametrize(("apart", "sizes"), [(True, [4, 4, 1]), (False, [1] * 9)])
def test_the_source_sees_no_more_images_at_once_than_a_forward_may_have(apart, sizes, monkeypatch):
    subject, seen = wired(engine={"max_rows": 4}), []
    answerer = subject.worker.parts.answerer
    monkeypatch.setattr(Sharing, "apart", apart)
    frozen = answerer._frozen
    monkeypatch.setattr(answerer, "_frozen", lambda batches: seen.append(len(batches)) or frozen(batches))

    answerer.source(np.split(rows(9), 9))

    assert seen == sizes


@pytest.mark.parametrize("stats", ["ema", "batch"])
def test_the_warm_up_has_whoever_answers_answer_as_many_images_as_a_request_may_have(stats, monkeypatch):
    backbone, seen = tiny(), list[tuple[int, str]]()
    forward = backbone.forward

    def listened(x: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        seen.append((len(x), str(statistics)))
        return forward(x, overrides, statistics)

    assert backbone.findings.apart
    monkeypatch.setattr(backbone, "forward", listened)
    adapter = adapters.create("tent", stats=stats)
    method = Method(adapter, adapter.init(backbone), Unguarded())

    module.warm_up(tiny(), backbone, method, rows=6, window_rows=4)

    assert seen == [(1, "stored"), (6, "stored"), *([(6, "batch")] if stats == "batch" else [])]
