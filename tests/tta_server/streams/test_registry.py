"""Streams within their limits: nothing is lost on the way to disk and back."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models import resnet50

from tests.tta_server.runtime.fakes import WHO, Wired, ask, close, is_due, learn_all, queued, rows, value, wired
from tta_server import adapters
from tta_server.errors import NotFound, Overloaded
from tta_server.models import TorchBackbone
from tta_server.models.backbone import size_bytes
from tta_server.streams.event import StreamEvent

IMAGE_BYTES = rows(1).nbytes


def held(subject: Wired) -> int:
    """Return the memory of all streams, counted anew."""
    streams = subject.worker.parts.registry.every_stream_in_memory()
    return sum(sum(stream.bytes.values()) for stream in streams)


def counted(subject: Wired) -> int:
    """Return the memory of all streams as the registry knows it."""
    return sum(subject.worker.parts.registry._sizes.by_kind.values())


def in_memory(subject: Wired) -> list[str]:
    return [summary["name"] for summary in subject.commands.list(wanted=lambda summary: summary.in_memory).streams]


def own_state(subject: Wired) -> int:
    return size_bytes(subject.worker.parts.methods.default.initial)


# Limits
def test_a_stream_on_disk_counts_as_one():
    subject = wired(max_streams=1)
    ask(subject, "a", rows(1))
    subject.commands.evict("a")

    with pytest.raises(Overloaded, match="holds its 1 streams already"):
        ask(subject, "b", rows(1))

    assert ask(subject, "a", rows(1)).version == 0


def test_the_streams_that_are_idle_longest_go_to_disk():
    subject = wired(window=100, max_bytes=6 * IMAGE_BYTES)
    for name in "abc":
        ask(subject, name, rows(2))
    ask(subject, "a", rows(1, 1))

    assert in_memory(subject) == ["a", "c"]
    assert value(subject.metrics, "tta_streams_on_disk") == 1
    assert value(subject.metrics, "tta_stream_moves_total", move="evicted") == 1


def test_a_stream_that_is_asked_comes_back_and_another_goes():
    subject = wired(window=100, max_bytes=4 * IMAGE_BYTES)
    for name in "abc":
        ask(subject, name, rows(2))
    assert in_memory(subject) == ["b", "c"]

    ask(subject, "a", rows(1, 1))

    assert in_memory(subject) == ["a"]
    assert len(subject.stream("a").window) == 3
    assert value(subject.metrics, "tta_stream_moves_total", move="revived") == 1


def test_the_last_stream_stays_and_gives_up_its_history_instead():
    subject = wired(max_bytes=1)
    for seed in range(3):
        ask(subject, "door", rows(4, seed))
        learn_all(subject)

    assert in_memory(subject) == ["door"]
    assert subject.stream("door").history.versions == []
    assert subject.stream("door").steps == 3


def test_streams_of_one_group_all_answer_though_they_do_not_fit_together():
    subject = wired(window=100, max_bytes=1)
    jobs = [queued(name, rows(2, seed), 0.0) for seed, name in enumerate("abcab")]

    subject.worker.answer(jobs)

    assert all(job.future.result(0).probabilities.shape == (2, 4) for job in jobs)
    waiting = {name: subject.commands.read(name)["images_in_window"] for name in "abc"}
    assert waiting == {"a": 4, "b": 4, "c": 2}


def test_a_window_that_is_due_waits_for_its_stream_to_come_back():
    subject = wired()
    ask(subject, "door", rows(4))
    subject.commands.evict("door")
    assert not is_due(subject)

    ask(subject, "door", rows(1, 1))

    learn_all(subject)
    assert subject.commands.read("door")["images_learnt"] == 4


def test_a_stream_that_nobody_asks_goes_to_disk_and_comes_back_as_it_was():
    subject = wired()
    ask(subject, "old", rows(4))
    ask(subject, "new", rows(4))
    now_s = time.monotonic()
    subject.stream("old").touched_s = now_s - 61

    subject.worker.park_idle(now_s, 60)

    assert {each["name"]: each["in_memory"] for each in subject.commands.list().streams} == {"old": False, "new": True}
    assert len(subject.stream("old").window) == 4


def test_no_stream_is_idle_unless_it_is_said_when():
    subject = wired(expire_s=0)
    ask(subject, "old", rows(4))

    subject.worker.park_idle(time.monotonic() + 1e9, 0)

    assert subject.commands.list().streams[0]["in_memory"]


def test_an_answer_from_disk_comes_from_the_streams_own_state():
    subject, twin = wired(), wired()
    for each in (subject, twin):
        for seed in range(3):
            ask(each, "door", rows(4, seed))
            learn_all(each)

    subject.commands.evict("door")

    answers = [ask(each, "door", rows(4, 99)) for each in (subject, twin)]
    assert np.array_equal(answers[0].probabilities, answers[1].probabilities)
    assert [answer.version for answer in answers] == [3, 3]


def test_what_does_not_exist_is_not_deleted():
    with pytest.raises(NotFound, match="unknown stream 'door'"):
        wired().worker.parts.registry.delete("door")


def test_memory_that_streams_leave_is_given_back():
    subject = wired()
    for seed in range(20):
        name = f"camera-{seed}"
        ask(subject, name, rows(6, seed))
        learn_all(subject)
        subject.commands.delete(name, WHO)

    assert held(subject) == value(subject.metrics, "tta_state_bytes") == 0
    assert value(subject.metrics, "tta_streams") == 0


@settings(max_examples=25, deadline=None)
@given(
    budget=st.integers(1, 40),
    asked=st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 6), st.booleans()), max_size=25),
)
def test_the_budget_holds_and_the_books_are_right_after_every_request(budget, asked):
    subject = wired(max_bytes=budget * IMAGE_BYTES)
    images: dict[str, int] = {}
    for seed, (name, count, learn) in enumerate(asked):
        ask(subject, name, rows(count, seed))
        images[name] = images.get(name, 0) + count
        if learn:
            learn_all(subject)
        assert held(subject) == value(subject.metrics, "tta_state_bytes")
        assert held(subject) <= budget * IMAGE_BYTES or len(in_memory(subject)) == 1
    told = {summary["name"]: summary["images"] for summary in subject.commands.list().streams}
    close()
    assert told == images


# Must show: a thousand streams of a large model
def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def large() -> TorchBackbone:
    """A ResNet-50 for images so small that a forward costs next to nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TorchBackbone(resnet50(num_classes=10), (3, 32, 32), name="resnet50")


def test_a_thousand_streams_with_states_of_a_resnet50_stay_within_the_budget(large):
    budget, count = 64 * 2**20, 1000
    adapter = adapters.create("tent")
    limits = {"max_bytes": budget, "history_bytes": 0, "recent_bytes": 0, "max_labelled": 0}
    subject = wired(adapter, backbone=large, **limits)
    registry, tell = subject.worker.parts.registry, subject.worker.parts.news.tell
    initial = adapter.init(large)
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), dtype=np.uint8)
    inputs = torch.from_numpy(x).float() / 255
    assert count * size_bytes(initial) > 8 * budget
    generator = torch.Generator().manual_seed(0)
    ask(subject, "first", x)  # for which the network is tried
    subject.commands.delete("first", WHO)
    peak = start = resident_bytes()

    expected = {}
    for number in range(count):
        with subject.worker.at_work():
            stream = registry.create(f"camera-{number}", "after", subject.worker.parts.methods.default)
            factor = 1 + 0.1 * float(torch.randn((), generator=generator))
            own = {name: tensor * factor for name, tensor in initial.items()}
            before = stream.standing
            stream.commit(own, 1, passed=False)
            tell(StreamEvent(stream.name, "commit", before, stream.standing, stream, rows=1))
        assert counted(subject) <= budget
        peak = max(peak, resident_bytes())
        if number % 50 == 0:
            assert counted(subject) == held(subject)
            expected[stream.name] = adapter.predict(large, own, inputs).logits.softmax(1).numpy()

    assert len(subject.commands.list().streams) == count
    assert value(subject.metrics, "tta_streams_on_disk") > 0.8 * count
    for name, probabilities in expected.items():
        answer = ask(subject, name, x)
        assert np.array_equal(answer.probabilities, probabilities)
        assert (answer.version, answer.adapted) == (1, True)
        assert held(subject) <= budget
        peak = max(peak, resident_bytes())
    assert len({probabilities.tobytes() for probabilities in expected.values()}) == len(expected)
    # Beyond it: what is on its way to disk, what is known of a thousand streams there, and what the allocator keeps.
    assert peak - start <= 2 * budget
