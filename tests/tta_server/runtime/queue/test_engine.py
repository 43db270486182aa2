"""Many threads ask, one answers: starting, learning, overload."""

import gc
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import wait

import numpy as np
import pytest

from tests.tta_server.runtime.engines import (
    PATIENCE_S,
    SlowStep,
    answer,
    answer_of,
    gated,
    listed,
    make,
    read,
    running,
    until,
)
from tests.tta_server.runtime.fakes import WHO, Fails, Gated, rows, submit
from tta_server.errors import BadRequest, NotFound, NotReady, Overloaded
from tta_server.runtime.job import Job
from tta_server.runtime.queue.engine import Engine
from tta_server.runtime.queue.rest import Rest
from tta_server.streams.window import prepared


def test_nothing_is_taken_before_the_start():
    engine = make()

    with pytest.raises(NotReady, match="starting"):
        submit(engine, "door", rows(1))

    assert engine.trouble() == "the server is starting"


def test_a_started_engine_is_ready_and_answers():
    with running() as engine:
        assert engine.trouble() == ""
        assert answer(engine).probabilities.shape == (2, 4)


@pytest.mark.parametrize(("stuck_after_s", "said"), [(1e-9, True), (0, False), (60, False)])
def test_a_step_that_would_end_the_server_is_told_of_at_the_start(stuck_after_s, said, caplog):
    engine = make(stuck_after_s=stuck_after_s)

    engine.start()
    engine.stop()

    assert ("take a smaller engine.window_rows" in caplog.text) == said


def test_a_warm_up_that_fails_is_raised_by_start():
    engine = make(Fails())

    with pytest.raises(ValueError, match=r"cannot learn from .* images, see engine.window_rows: .*no step today"):
        engine.start()

    assert engine.trouble()
    engine.stop()


@pytest.mark.parametrize("count", [0, 9])
def test_a_request_must_fit_one_forward(count):
    with running() as engine, pytest.raises(BadRequest, match=f"request has {count} images, expected 1 to 8"):
        submit(engine, "door", rows(count))


def test_learning_follows_the_answers():
    with running() as engine:
        for _ in range(4):
            answer(engine, images=rows(4))
        until(lambda: read(engine)["steps"] == 4)

        assert answer(engine).version == 4


def test_versions_in_answers_follow_the_order_of_requests():
    with running(max_queue_rows=4000) as engine:
        futures = [submit(engine, "door", rows(2, seed)) for seed in range(200)]

        versions = [future.result(PATIENCE_S).version for future in futures]

        summary = read(engine)
    assert versions == sorted(versions)
    assert summary["images"] == 400
    assert versions[-1] <= summary["steps"] == summary["state_version"]


def test_many_threads_lose_and_mix_up_nothing():
    # An image decides its answer: every thread can tell its own.
    own = {seed: answer_of(rows(2, seed)) for seed in range(16)}
    wrong = []

    def client(engine: Engine, seed: int) -> None:
        for _ in range(20):
            found = answer(engine, f"stream{seed % 3}", rows(2, seed))
            if not np.array_equal(found.probabilities, own[seed]):
                wrong.append(seed)

    with running(max_rows=2, max_queue_rows=100, streams={"mode": "off"}) as engine:
        threads = [threading.Thread(target=client, args=(engine, seed)) for seed in own]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        images = sum(stream["images"] for stream in listed(engine))

    assert not wrong
    assert images == 16 * 20 * 2


def test_a_delay_gathers_company():
    with running(max_delay_ms=60_000, max_rows=4) as engine:
        first = submit(engine, "door", rows(2))
        assert not first.done()

        second = submit(engine, "door", rows(2))  # now the group is full

        wait([first, second], PATIENCE_S)
        assert first.done()
        assert second.done()


def test_a_reset_goes_through_the_device_thread():
    with running() as engine:
        answer(engine, images=rows(8))
        until(lambda: read(engine)["steps"] == 2)

        summary, _ = engine.command(lambda commands: commands.reset("door", WHO)).result(PATIENCE_S)

        assert summary["steps"] == 0
        assert np.array_equal(answer(engine).probabilities, answer_of(rows(2)))


def test_an_unknown_stream_is_not_found():
    with running() as engine:
        for run in (lambda commands: commands.read("door"), lambda commands: commands.reset("door", WHO)):
            with pytest.raises(NotFound):
                engine.command(run).result(PATIENCE_S)

        assert answer(engine).version == 0


# Overload
def test_a_full_queue_refuses_and_recovers():
    with gated() as (engine, adapter, _busy):
        waiting = [submit(engine, "door", rows(8)) for _ in range(4)]

        with pytest.raises(Overloaded, match="32 images are waiting"):
            submit(engine, "door", rows(1))

        adapter.gate.set()
        assert all(future.result(PATIENCE_S).probabilities.shape == (8, 4) for future in waiting)
        assert answer(engine).probabilities.shape == (2, 4)


def test_overload_drops_windows_and_not_answers():
    with gated() as (engine, adapter, busy):
        waiting = [submit(engine, "door", rows(8)) for _ in range(4)]
        adapter.gate.set()

        for future in [busy, *waiting]:
            future.result(PATIENCE_S)

        until(lambda: read(engine)["images_in_window"] < 4)
        summary = read(engine)
    # 24 and 16 images still waited after the first two groups; 16 is not more than half of 32.
    assert summary["images"] == 32
    assert summary["images_dropped"] == 4
    assert summary["images_learnt"] == 28


class Turnstile(Gated):
    """Lets one group of answers through each time the gate is opened; says when a step begins."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "stepped", threading.Event())

    def predict(self, backbone, state, x):
        found = super().predict(backbone, state, x)
        self.gate.clear()
        return found

    def adapt(self, backbone, state, x):
        self.stepped.set()
        return super().adapt(backbone, state, x)


@pytest.mark.parametrize("share", [0, 1])
def test_while_requests_wait_steps_take_no_more_than_their_share(share):
    with gated(Turnstile, learn_share=share) as (engine, adapter, busy):
        adapter.stepped.clear()  # as it warmed up
        waiting = [submit(engine, "door", rows(8, seed)) for seed in range(2)]
        for future in (busy, waiting[0]):
            adapter.entered.clear()
            adapter.gate.set()
            future.result(PATIENCE_S)
            assert adapter.entered.wait(PATIENCE_S)  # the next is at hand, and whether to learn has been decided

        assert engine._steps.state == "idle" or share
        assert not share or adapter.stepped.wait(PATIENCE_S)
        assert not waiting[1].done()

        adapter.gate.set()
        until(lambda: read(engine)["images_learnt"] == 16)  # nobody waits any more


def test_answers_do_not_wait_for_a_step_and_commands_do():
    adapter = SlowStep()
    adapter.gate.set()
    with running(adapter) as engine:
        adapter.gate.clear()
        adapter.entered.clear()
        answer(engine, images=rows(4))
        assert adapter.entered.wait(PATIENCE_S)

        assert [answer(engine).version for _ in range(3)] == [0, 0, 0]
        summary = engine.command(lambda commands: commands.read("door"))
        assert answer(engine, "gate").version == 0
        assert not summary.done()

        adapter.gate.set()
        assert summary.result(PATIENCE_S)["steps"] == 1
        assert answer(engine).version >= 1


@pytest.mark.parametrize(("lull_s", "steps"), [(0.0, 1), (3600.0, 0)])
def test_callers_who_were_answered_together_are_expected_back(monkeypatch, lull_s, steps):
    def answered(rest, requests, _began_s, ended_s):
        rest._quiet_s = ended_s + lull_s if requests > 1 else rest._quiet_s

    monkeypatch.setattr(Rest, "answered", answered)  # for as long as their answers take
    with gated(learn_share=0) as (engine, adapter, _busy):
        together = [submit(engine, "door", rows(2, seed)) for seed in range(2)]
        adapter.gate.set()
        for future in together:
            future.result(PATIENCE_S)

        until(lambda: read(engine)["steps"] >= steps)
        assert read(engine)["steps"] == steps


def test_requests_that_only_wait_for_company_hold_up_no_step():
    with running(max_delay_ms=60_000, learn_share=0) as engine:
        wait([submit(engine, "door", rows(8))], PATIENCE_S)  # a group that is full; its window is due
        lonely = submit(engine, "gate", rows(1))

        until(lambda: read(engine)["steps"] > 0)

        assert not lonely.done()


def test_a_group_that_is_full_waits_for_the_device_however_long_others_wait_for_company():
    adapter = Gated()
    adapter.gate.set()
    with running(adapter, max_delay_ms=60_000, learn_share=0) as engine:
        adapter.gate.clear()
        adapter.entered.clear()
        waiting = [submit(engine, "door", rows(8, 0))]
        assert adapter.entered.wait(PATIENCE_S)
        waiting += [submit(engine, "door", rows(8, seed)) for seed in (1, 2)]
        adapter.gate.set()

        versions = [future.result(PATIENCE_S).version for future in waiting]

        until(lambda: read(engine)["images_learnt"] == 24)  # nobody waits any more
    assert versions == [0, 0, 0]


def test_a_request_that_is_cancelled_while_it_waits_costs_nothing():
    with gated() as (engine, adapter, _busy):
        gone, here = submit(engine, "gone", rows(4)), submit(engine, "here", rows(4))

        assert gone.cancel()
        adapter.gate.set()

        here.result(PATIENCE_S)
        assert {stream["name"] for stream in listed(engine)} == {"busy", "here"}


def test_a_stream_too_many_is_refused():
    with running(streams={"max_streams": 1}) as engine:
        answer(engine, "first")

        with pytest.raises(Overloaded, match="'second' is new"):
            answer(engine, "second")


def test_what_comes_while_a_loop_has_more_to_do_is_answered_in_one_forward():
    later: deque[Callable[[], None]] = deque()  # what an event loop would call soon
    with running(max_rows=4) as engine:
        room = engine.reserve(1, 1)
        jobs = [Job("door", prepared(rows(1, seed)), time.monotonic()) for seed in range(3)]
        turns = [0, 0, 0]
        for comes, job in enumerate(jobs):
            engine.submit(job, room, later.append)
            while later and turns[comes] < (2 if comes < 2 else 99):  # the next one comes before it is quiet for long
                assert len(later) == 1  # whoever waits already has had it woken
                assert not any(each.future.done() for each in jobs)
                later.popleft()()
                turns[comes] += 1
        assert turns == [2, 2, 4]  # of the last, one that finds it and three that are quiet
        wait([job.future for job in jobs], PATIENCE_S)
        room.release()
        totals = engine._worker._metrics.totals()

    assert totals["tta_batch_size_images_count", ""] == 1
    assert totals["tta_batch_size_images_sum", ""] == 3


def test_an_answered_request_leaves_nothing_for_the_collector():
    gc.disable()
    try:
        with running() as engine:
            future = submit(engine, "door", rows(1))
            future.result(PATIENCE_S)
            gone = weakref.ref(future)
            del future
            until(lambda: gone() is None)
    finally:
        gc.enable()
